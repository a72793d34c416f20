"""train_net.py --eval-only on photographs of five data sets, with three protocols."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.clip.tiny import register_tiny
from tests.command_line import HEADLINE, call

PAIRS = {"ade20k_150": 4, "camvid": 16, "cityscapes": 4, "coco_stuff": 7, "voc2012": 8}
SIZES = {  # small, because random weights do not benefit from more
    "center_crop": ("INPUT.MIN_SIZE_TEST", "224"),
    "whole": ("INPUT.MIN_SIZE_TEST", "160", "INPUT.MAX_SIZE_TEST", "320"),
    "slide": ("INPUT.MIN_SIZE_TEST", "160", "INPUT.MAX_SIZE_TEST", "320", "TEST.WINDOW", "160", "TEST.STRIDE", "80"),
}
# Random weights show that everything runs, not how well it segments.
OPTIONS = (
    *("MODEL.CLIP.PRETRAINED", "", "MODEL.CLIP.TEMPLATES", "simple"),
    *("MODEL.DEVICE", "cpu", "MODEL.CLIPTRASE.ADAPTIVE_DBSCAN", "True", "DATALOADER.NUM_WORKERS", "0"),
    *("TEST.BATCH_SIZE", "2", "TEST.SAVE_PREDICTIONS", "True"),
)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def real(shared: Path) -> Path:
    folder = shared / "data" / "real"
    if not folder.is_dir():
        pytest.skip(f"the photographs, {folder}, are not on this machine")
    return folder


@pytest.fixture(scope="module")
def work(real: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the YAML file of every data set to a folder that also caches text features."""
    folder = tmp_path_factory.mktemp("photographs")
    for name in PAIRS:
        metadata = json.loads((real / name / "classes.json").read_text())
        paths = {"images": str(real / name / "images"), "labels": str(real / name / "annotations")}
        label_map = {int(raw): index for raw, index in metadata["label_to_index"].items()}
        description = {"name": name, **paths, "classes": metadata["classes"], "label_map": label_map}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(description))
    return folder


@pytest.mark.parametrize("protocol", SIZES)
def test_five_data_sets_are_evaluated(work: Path, real: Path, monkeypatch: pytest.MonkeyPatch, protocol: str) -> None:
    datasets = [word for name in PAIRS for word in ("--dataset", str(work / f"{name}.yaml"))]
    folders = ("OUTPUT_DIR", str(work / protocol), "MODEL.CLIP.TEXT_CACHE", str(work / "cache"))
    is_crop = protocol == "center_crop"
    model = ("MODEL.CLIP.NAME", "ViT-B-16" if is_crop else register_tiny(work))  # the real size once
    words = ["--eval-only", *datasets, *model, *OPTIONS, "TEST.PROTOCOL", protocol, *SIZES[protocol], *folders]
    assert call(monkeypatch, *words) == ""
    assert "RANDOM WEIGHTS" in (work / protocol / "log.txt").read_text()
    for name, pairs in PAIRS.items():
        folder = work / protocol / "inference" / name
        report = json.loads((folder / "metrics.json").read_text())
        assert (report["images"], report["skipped"], report["no_valid_label"]) == (pairs, [], [])
        assert report["protocol"]["name"] == protocol
        assert list(report["per_class"]) == json.loads((real / name / "classes.json").read_text())["classes"]
        assert all(0 <= report[key] <= 100 for key in HEADLINE)
        photographs = sorted((real / name / "images").iterdir())
        predictions = sorted((folder / "predictions").iterdir())
        assert [path.stem for path in predictions] == [path.stem for path in photographs]
        pixels = 0
        for prediction, photograph in zip(predictions, photographs, strict=True):
            with Image.open(prediction) as label_map, Image.open(photograph) as image:
                assert label_map.size == ((224, 224) if is_crop else image.size)
                assert np.asarray(label_map).max() < len(report["per_class"])
                pixels += label_map.width * label_map.height
        labelled = sum(values["pixels"] for values in report["per_class"].values())
        assert 0.5 * pixels < labelled <= pixels  # most of every photograph is labelled
