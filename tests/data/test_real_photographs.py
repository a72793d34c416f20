"""Real photographs of five data sets, each described by a YAML file as a user would write it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from cliptrase_d2.d2 import DatasetCatalog
from cliptrase_d2.data.custom import read_dataset_file
from cliptrase_d2.data.labels import LabelRule
from cliptrase_d2.data.mapper import EvaluationMapper
from cliptrase_d2.data.register import register_spec
from cliptrase_d2.evaluation.confusion import confusion_matrix
from cliptrase_d2.evaluation.metrics import segmentation_metrics
from cliptrase_d2.vocabulary import Vocabulary

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
PAIRS = {"camvid": 16, "voc2012": 8, "coco_stuff": 7, "ade20k_150": 4, "cityscapes": 4}

pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="the reference photographs lie beside this repository")


@pytest.mark.parametrize("name", PAIRS)
def test_every_pair_in_every_protocol(tmp_path: Path, name: str) -> None:
    folder = SHARED / "real" / name
    known = json.loads((folder / "classes.json").read_text())
    description = {
        "name": f"real_{name}",
        "images": str(folder / "images"),
        "labels": str(folder / "annotations"),
        "classes": known["classes"],
        "label_map": {int(raw): index for raw, index in known["label_to_index"].items()},
    }
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump(description))
    register_spec(read_dataset_file(path))
    records = DatasetCatalog.get(f"real_{name}")
    assert len(records) == PAIRS[name]
    allowed = torch.tensor([*range(len(known["classes"])), 255])
    for protocol, short_side in (("center_crop", 224), ("whole", 128), ("slide", 128)):
        mapper = EvaluationMapper.for_dataset(
            f"real_{name}", protocol=protocol, short_side=short_side, max_size=256, patch_size=16
        )
        for record in records:
            mapped = mapper(record)
            height, width = mapped["sem_seg"].shape
            assert (height, width) == (mapped["height"], mapped["width"])
            with Image.open(record["file_name"]) as image:
                assert (width, height) == ((224, 224) if protocol == "center_crop" else image.size)
            assert mapped["image"].shape[1] % 16 == mapped["image"].shape[2] % 16 == 0
            assert torch.isin(mapped["sem_seg"].unique(), allowed).all()


@pytest.mark.parametrize("side", [224, 336])
@pytest.mark.parametrize("run", ["plain", "voc20", "voc21"])
def test_published_label_maps_score_what_was_published(run: str, side: int) -> None:
    reference = SHARED / "reference" / "cliptrase"
    with_background = run == "voc21"
    rule = LabelRule(
        num_classes=21 if with_background else 20,
        ignore_label=-1 if with_background else 255,
        label_map={index + 1: index for index in range(20)} | dict.fromkeys((0, 255), 20 if with_background else 255),
    )
    names = [f"class {index}" for index in range(rule.num_classes)]
    mapper = EvaluationMapper(
        protocol="center_crop",
        short_side=side,
        max_size=side,
        patch_size=16,
        vocabulary=Vocabulary.parse(names),
        label_rule=rule,
    )
    confusion = torch.zeros(rule.num_classes, rule.num_classes, dtype=torch.int64)
    for image in sorted((SHARED / "real" / "voc2012" / "images").iterdir()):
        labels = SHARED / "real" / "voc2012" / "annotations" / f"{image.stem}.png"
        truth = mapper({"file_name": str(image), "sem_seg_file_name": str(labels)})["sem_seg"]
        prediction = np.array(Image.open(reference / f"{run}_{side}" / f"{image.stem}.png"))
        confusion += confusion_matrix(truth, prediction, rule.num_classes, rule.ignore_label)
    published = json.loads((reference / "summary.json").read_text())[f"{run}_{side}"]["metrics"]
    metrics = segmentation_metrics(confusion, names)["paper"]
    assert {name: round(value, 2) for name, value in metrics.items()} == pytest.approx(published, abs=0.011)
