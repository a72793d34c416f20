"""Whatever is wrong with the input: one clear line in its place, or the image skipped and the rest counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from cliptrase_d2.d2 import DatasetCatalog, MetadataCatalog
from tests.clip.tiny import tiny_clip
from tests.command_line import HEADLINE, call, results, run, write_dataset
from tests.drawn_scenes import CLASSES, write_scenes
from tests.pipeline.tiny_segmenter import tiny_options

Break = Callable[[Path], list[str]]


def _break_image(folder: Path) -> list[str]:
    (folder / "images" / "scene_001.png").write_bytes(b"this is no image")
    return []


def _truncate_image(folder: Path) -> list[str]:
    file = folder / "images" / "scene_001.png"
    file.write_bytes(file.read_bytes()[:2000])
    return []


def _remove_image(folder: Path) -> list[str]:
    (folder / "images" / "scene_001.png").unlink()
    return []


def _remove_label(folder: Path) -> list[str]:
    (folder / "annotations" / "scene_001.png").unlink()
    return []


def _shrink_label(folder: Path) -> list[str]:
    file = folder / "annotations" / "scene_001.png"
    Image.open(file).resize((160, 120), Image.Resampling.NEAREST).save(file)
    return []


def _spoil_label(folder: Path) -> list[str]:
    file = folder / "annotations" / "scene_001.png"
    labels = np.array(Image.open(file))
    labels[0, 0] = len(CLASSES)
    Image.fromarray(labels).save(file)
    return []


def _colour_label(folder: Path) -> list[str]:
    file = folder / "annotations" / "scene_001.png"
    Image.open(file).convert("RGB").save(file)
    return []


def _change(**changes: Any) -> Break:
    def change(folder: Path) -> list[str]:
        file = folder / "dataset.yaml"
        file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **changes}))
        return []

    return change


def _truncate_weights(folder: Path) -> list[str]:
    file = folder / "cut.safetensors"
    save_file({name: value.contiguous() for name, value in tiny_clip().state_dict().items()}, file)
    file.write_bytes(file.read_bytes()[:5000])
    return ["MODEL.CLIP.PRETRAINED", str(file)]


def _truncate_checkpoint(folder: Path) -> list[str]:
    file = folder / "cut.pth"
    torch.save({"model": tiny_clip().state_dict()}, file)
    file.write_bytes(file.read_bytes()[:5000])
    return ["MODEL.WEIGHTS", str(file)]


def _options(*options: str) -> Break:
    return lambda folder: list(options)


IMAGES: dict[str, tuple[Break, str, str]] = {  # how it is broken, what is named, what is allowed
    "broken image": (_break_image, "images/scene_001.png", "a whole image file"),
    "truncated image": (_truncate_image, "images/scene_001.png", "a whole image file"),
    "label without image": (_remove_image, "annotations/scene_001.png", "an image for every label file"),
    "image without label": (_remove_label, "images/scene_001.png", "a label file (.png .tif .tiff) for every image"),
    "different sizes": (_shrink_label, "annotations/scene_001.png", "the size of the image"),
    "label outside the classes": (_spoil_label, "annotations/scene_001.png", "0..6 or the ignore label 255"),
    "coloured label": (_colour_label, "annotations/scene_001.png", "one channel of whole numbers"),
}
SETTINGS: dict[str, tuple[Break, str, str]] = {
    "missing image folder": (_change(images="nowhere"), "nowhere", ".png"),
    "empty vocabulary": (_change(classes=[]), "dataset.yaml", "at least one class name"),
    "duplicated vocabulary": (_change(classes=["sky", "tree;sky"]), "dataset.yaml", "every word once"),
    "nameless class": (_change(classes=["sky", ""]), "dataset.yaml", "none of them empty"),
    "unknown key of a data set": (_change(clases=["sky"]), "dataset.yaml", "classes"),  # codespell:ignore
    "unknown tag": (
        _options("MODEL.CLIP.NAME", "ViT-B-16", "MODEL.CLIP.PRETRAINED", "opena"), "MODEL.CLIP.PRETRAINED", "openai",
    ),
    "unknown model": (_options("MODEL.CLIP.NAME", "ViT-B-17"), "MODEL.CLIP.NAME", "open_clip.list_models()"),
    "truncated weights": (_truncate_weights, "cut.safetensors", ".safetensors"),
    "truncated checkpoint": (_truncate_checkpoint, "cut.pth", ".pth"),
    "misspelt config key": (_options("TEST.PROTOCOLL", "whole"), "TEST.PROTOCOLL", "TEST.PROTOCOL"),  # codespell:ignore
    "value of another type": (_options("MODEL.CLIPTRASE.EPS", "wide"), "MODEL.CLIPTRASE.EPS", "float"),
    "key without value": (_options("TEST.PROTOCOL"), "TEST.PROTOCOL", "pairs of KEY and VALUE"),
    "unknown protocol": (_options("TEST.PROTOCOL", "crop"), "TEST.PROTOCOL", "center_crop, whole, slide"),
    "unknown reaction": (_options("TEST.ON_ERROR", "ignore"), "TEST.ON_ERROR", "stop or skip"),
    "unknown system": (_options("TEST.METHODS", "['clp']"), "TEST.METHODS", "clip, maskclip, sclip"),
    "system without clusters": (
        _options("TEST.METHODS", "['cliptrase']", "MODEL.CLIPTRASE.CLUSTERING", "none"),
        "MODEL.CLIPTRASE.CLUSTERING", "dbscan or hdbscan",
    ),
    "expected result of nothing": (
        _options("TEST.EXPECTED_RESULTS", "[['clip/sem_seg', 'mIoU', 25.0, 1.0]]"), "TEST.EXPECTED_RESULTS", "sem_seg",
    ),
    "more pixels than allowed": (_options("INPUT.MAX_PIXELS", "100"), "images/scene_000.png", "at most 100 pixels"),
    "less than no pixel": (_options("INPUT.MAX_PIXELS", "-1"), "INPUT.MAX_PIXELS", "0 for no bound"),
    "less than no overlay": (_options("TEST.SAVE_OVERLAYS", "-1"), "TEST.SAVE_OVERLAYS", "0 for none"),
    "group of an unknown class": (_change(groups={"things": ["car"]}), "dataset.yaml", "sky"),
    "unknown device": (_options("MODEL.DEVICE", "gpu"), "MODEL.DEVICE", "cpu"),
    "gaps between windows": (
        _options("TEST.PROTOCOL", "slide", "TEST.STRIDE", "128"), "TEST.STRIDE", "at most TEST.WINDOW",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", [*IMAGES, *SETTINGS])
def test_bad_input_ends_with_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    scenes = write_dataset(tmp_path / "scenes", 3)
    spoil, named, allowed = {**IMAGES, **SETTINGS}[fault]
    message = run(monkeypatch, scenes, *spoil(scenes.parent))
    assert message.startswith("error: ")
    assert named in message.partition("Allowed: ")[0]
    assert allowed in message.partition("Allowed: ")[2]
    assert len(message.splitlines()) == 1
    # What was done before the fault is kept for --resume, but it is no result.
    written = [path for path in (scenes.parent / "output").rglob("*") if path.is_file()]
    assert not [path for path in written if "inference" in path.parts and path.parent.name != "progress"]


@pytest.mark.parametrize("flag", ["--config-file", "--dataset"])
def test_a_missing_yaml_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: str) -> None:
    scenes = write_dataset(tmp_path / "scenes", 3)
    message = run(monkeypatch, scenes, flags=(flag, "no/such.yaml"))
    assert message.startswith("error: no/such.yaml: ")
    assert "Allowed: " in message


def test_no_data_set_at_all_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = call(monkeypatch, "--eval-only", *tiny_options(tmp_path))
    assert message.startswith("error: DATASETS.TEST: no data set")


def test_every_bad_image_is_skipped_and_listed_and_the_rest_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = list(IMAGES.values())
    dataset, good = write_dataset(tmp_path / "scenes", len(faults) + 2), write_dataset(tmp_path / "good", 2)
    for number, (spoil, named, _) in enumerate(faults, start=2):
        # Every fault is done to scene 1 of a folder of its own, and its files are put in as scene `number`.
        broken = write_dataset(tmp_path / f"broken_{number}", 2).parent
        spoil(broken)
        for kind in ("images", "annotations"):
            (dataset.parent / kind / f"scene_{number:03}.png").unlink()
            source = broken / kind / "scene_001.png"
            if source.exists():
                source.rename(dataset.parent / kind / f"scene_{number:03}.png")
        assert "scene_001" in named
    options = ("TEST.ON_ERROR", "skip", "TEST.BATCH_SIZE", "3")
    assert run(monkeypatch, dataset, *options) == ""
    assert run(monkeypatch, good, *options) == ""
    report, expected = results(dataset), results(good)
    assert report["images"] == expected["images"] == 2
    numbers = [int(Path(entry["file"]).stem.removeprefix("scene_")) for entry in report["skipped"]]
    assert sorted(numbers) == list(range(2, len(faults) + 2))
    for entry in report["skipped"]:
        number = int(Path(entry["file"]).stem.removeprefix("scene_"))
        assert faults[number - 2][2] in entry["reason"]
    for key in (*HEADLINE, "per_class"):
        assert report[key] == expected[key]


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_a_listed_image_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_error: str) -> None:
    write_scenes(tmp_path, 2)
    (tmp_path / "images" / "scene_000.png").unlink()
    name = f"listed_{tmp_path.name}"  # as Detectron2's own data sets are, from a list made elsewhere
    records = [
        {"file_name": str(image), "sem_seg_file_name": str(tmp_path / "annotations" / image.name)}
        for image in (tmp_path / "images" / "scene_000.png", tmp_path / "images" / "scene_001.png")
    ]
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(stuff_classes=list(CLASSES), ignore_label=255)
    options = ["--eval-only", *tiny_options(tmp_path), "DATASETS.TEST", f"('{name}',)", "TEST.ON_ERROR", on_error]
    message = call(monkeypatch, *options)
    if on_error == "stop":
        assert message.startswith(f"error: {tmp_path / 'images' / 'scene_000.png'}: no such file")
        return
    assert message == ""
    report = json.loads((tmp_path / "output" / "inference" / name / "metrics.json").read_text())
    assert report["images"] == 1
    assert [Path(entry["file"]).name for entry in report["skipped"]] == ["scene_000.png"]
