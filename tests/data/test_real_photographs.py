"""The published label maps of photographs, scored with the labels that the mapper reads."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cliptrase_d2.data.labels import LabelRule
from cliptrase_d2.data.mapper import EvaluationMapper
from cliptrase_d2.evaluation.confusion import confusion_matrix
from cliptrase_d2.evaluation.metrics import segmentation_metrics
from cliptrase_d2.vocabulary import Vocabulary

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"

pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the reference photographs beside this repository")


@pytest.mark.parametrize("side", [224, 336])
@pytest.mark.parametrize("run", ["plain", "voc20", "voc21"])
def test_published_label_maps_have_the_published_metrics(run: str, side: int) -> None:
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
