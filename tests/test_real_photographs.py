"""The main job: train_net.py --eval-only over the photographs of five data sets, in all three protocols."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests import forked
from tests.clip.tiny import register_tiny
from tests.command_line import HEADLINE, call

PAIRS = {"ade20k_150": 4, "camvid": 16, "cityscapes": 4, "coco_stuff": 7, "voc2012": 8}
SIZES = {  # what the model sees; small, for random weights learn nothing from more
    "center_crop": ("INPUT.MIN_SIZE_TEST", "224"),
    "whole": ("INPUT.MIN_SIZE_TEST", "160", "INPUT.MAX_SIZE_TEST", "320"),
    "slide": ("INPUT.MIN_SIZE_TEST", "160", "INPUT.MAX_SIZE_TEST", "320", "TEST.WINDOW", "160", "TEST.STRIDE", "80"),
}
# No trained weights are at hand: seeded random ones show that everything runs, not how well it segments.
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
    """A folder with the description of every data set, as a user would write it; text features are kept there too."""
    folder = tmp_path_factory.mktemp("photographs")
    for name in PAIRS:
        known = json.loads((real / name / "classes.json").read_text())
        description = {
            "name": name,
            "images": str(real / name / "images"),
            "labels": str(real / name / "annotations"),
            "classes": known["classes"],
            "label_map": {int(raw): index for raw, index in known["label_to_index"].items()},
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(description))
    return folder


@pytest.mark.parametrize("protocol", SIZES)
def test_five_data_sets_are_evaluated(work: Path, real: Path, monkeypatch: pytest.MonkeyPatch, protocol: str) -> None:
    datasets = [word for name in PAIRS for word in ("--dataset", str(work / f"{name}.yaml"))]
    folders = ("OUTPUT_DIR", str(work / protocol), "MODEL.CLIP.TEXT_CACHE", str(work / "cache"))
    is_crop = protocol == "center_crop"
    model = ("MODEL.CLIP.NAME", "ViT-B-16" if is_crop else register_tiny(work))  # the real size once
    words = ["--eval-only", *datasets, *model, *OPTIONS, "TEST.PROTOCOL", protocol, *SIZES[protocol], *folders]
    if is_crop:
        done = forked.run([str(forked.ROOT / "train_net.py"), *words], work)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
    else:  # the same in this process
        assert call(monkeypatch, *words) == ""
    assert "RANDOM WEIGHTS" in (work / protocol / "log.txt").read_text()
    for name, pairs in PAIRS.items():
        results = work / protocol / "inference" / name
        report = json.loads((results / "metrics.json").read_text())
        classes = json.loads((real / name / "classes.json").read_text())["classes"]
        assert (report["images"], report["skipped"], report["no_valid_label"]) == (pairs, [], [])
        assert report["protocol"]["name"] == protocol
        assert list(report["per_class"]) == classes
        assert all(0 <= report[key] <= 100 for key in HEADLINE)
        labelled = sum(values["pixels"] for values in report["per_class"].values())
        photographs = sorted((real / name / "images").iterdir())
        predictions = sorted((results / "predictions").iterdir())
        assert [path.stem for path in predictions] == [path.stem for path in photographs]
        pixels = 0
        for prediction, photograph in zip(predictions, photographs, strict=True):
            with Image.open(prediction) as found, Image.open(photograph) as image:
                assert found.size == ((224, 224) if is_crop else image.size)
                assert np.asarray(found).max() < len(classes)
                pixels += found.width * found.height
        assert 0.5 * pixels < labelled <= pixels  # most of every photograph is labelled
