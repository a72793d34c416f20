"""Bad input ends a run with one clear line, or is skipped and listed."""

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
from tests.command_line import HEADLINE, call, read_results, run, write_dataset
from tests.drawn_scenes import CLASSES, write_scenes
from tests.pipeline.tiny_segmenter import tiny_options


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:2000])


def _set_outer_class(label: Path) -> None:
    values = np.array(Image.open(label))
    values[0, 0] = len(CLASSES)
    Image.fromarray(values).save(label)


# Fault: the folder whose file is changed, the change, and the folder whose file the error names.
IMAGES: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "not an image": ("images", lambda image: image.write_bytes(b"this is text"), "images"),
    "truncated image": ("images", _truncate, "images"),
    "label without image": ("images", Path.unlink, "annotations"),
    "image without label": ("annotations", Path.unlink, "images"),
    "different sizes": ("annotations", lambda label: Image.open(label).resize((160, 120)).save(label), "annotations"),
    "label outside the classes": ("annotations", _set_outer_class, "annotations"),
    "colour label": ("annotations", lambda label: Image.new("RGB", (320, 240), "red").save(label), "annotations"),
}
Break = Callable[[Path], list[str]]


def _break_scene(fault: str) -> Break:
    def break_scene(folder: Path) -> list[str]:
        subfolder, change, _ = IMAGES[fault]
        change(folder / subfolder / "scene_001.png")
        return []

    return break_scene


def _change(**changes: Any) -> Break:
    def change(folder: Path) -> list[str]:
        file = folder / "dataset.yaml"
        file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **changes}))
        return []

    return change


def _truncate_weights(save: Callable[[dict[str, Any], Path], None], key: str, name: str) -> Break:
    def truncate(folder: Path) -> list[str]:
        save({name: value.contiguous() for name, value in tiny_clip().state_dict().items()}, folder / name)
        _truncate(folder / name)
        return [key, str(folder / name)]

    return truncate


def _options(*options: str) -> Break:
    return lambda folder: list(options)


# Fault: what causes it, and the file or key and the value that the error names.
FAULTS: dict[str, tuple[Break, str, str]] = {
    **{fault: (_break_scene(fault), f"{named}/scene_001.png", "") for fault, (_, _, named) in IMAGES.items()},
    "missing image folder": (_change(images="nowhere"), "nowhere", ""),
    "empty vocabulary": (_change(classes=[]), "dataset.yaml", "class"),
    "duplicate class": (_change(classes=["sky", "tree;sky"]), "dataset.yaml", "sky"),
    "nameless class": (_change(classes=["sky", ""]), "dataset.yaml", "class"),
    "unknown key of a data set": (_change(clases=["sky"]), "dataset.yaml", "clases"),  # codespell:ignore
    "group with an unknown class": (_change(groups={"things": ["car"]}), "dataset.yaml", "car"),
    "unknown tag": (
        _options("MODEL.CLIP.NAME", "ViT-B-16", "MODEL.CLIP.PRETRAINED", "opena"), "MODEL.CLIP.PRETRAINED", "opena",
    ),
    "unknown model": (_options("MODEL.CLIP.NAME", "ViT-B-17"), "MODEL.CLIP.NAME", "ViT-B-17"),
    "truncated weights": (
        _truncate_weights(save_file, "MODEL.CLIP.PRETRAINED", "cut.safetensors"), "cut.safetensors", "",
    ),
    "truncated checkpoint": (_truncate_weights(torch.save, "MODEL.WEIGHTS", "cut.pth"), "cut.pth", ""),
    "misspelt key": (_options("TEST.PROTOCOLL", "whole"), "TEST.PROTOCOLL", "TEST.PROTOCOL."),  # codespell:ignore
    "value of another type": (_options("MODEL.CLIPTRASE.EPS", "wide"), "MODEL.CLIPTRASE.EPS", "wide"),
    "key without value": (_options("TEST.PROTOCOL"), "TEST.PROTOCOL", ""),
    "unknown protocol": (_options("TEST.PROTOCOL", "crop"), "TEST.PROTOCOL", "crop"),
    "unknown reaction": (_options("TEST.ON_ERROR", "ignore"), "TEST.ON_ERROR", "ignore"),
    "unknown method": (_options("TEST.METHODS", "['clp']"), "TEST.METHODS", "clp"),
    "CLIPtrase without clusters": (
        _options("TEST.METHODS", "['cliptrase']", "MODEL.CLIPTRASE.CLUSTERING", "none"),
        "MODEL.CLIPTRASE.CLUSTERING", "none",
    ),
    "expected result of an unknown run": (
        _options("TEST.EXPECTED_RESULTS", "[['clip/sem_seg', 'mIoU', 25.0, 1.0]]"), "TEST.EXPECTED_RESULTS", "clip",
    ),
    "too many pixels": (_options("INPUT.MAX_PIXELS", "100"), "images/scene_000.png", "100"),
    "negative pixel limit": (_options("INPUT.MAX_PIXELS", "-1"), "INPUT.MAX_PIXELS", "-1"),
    "negative number of overlays": (_options("TEST.SAVE_OVERLAYS", "-1"), "TEST.SAVE_OVERLAYS", "-1"),
    "unknown device": (_options("MODEL.DEVICE", "gpu"), "MODEL.DEVICE", "gpu"),
    "gaps between windows": (_options("TEST.PROTOCOL", "slide", "TEST.STRIDE", "128"), "TEST.STRIDE", "128"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_input_ends_with_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    scenes = write_dataset(tmp_path / "scenes", 3)
    cause, named, value = FAULTS[fault]
    message = run(monkeypatch, scenes, *cause(scenes.parent))
    assert message.startswith("error: ")
    assert named in message
    assert value in message
    assert len(message.splitlines()) == 1
    # Progress before the fault is kept for --resume, but is not a result.
    written = [path for path in (scenes.parent / "output").rglob("*") if path.is_file()]
    assert not [path for path in written if "inference" in path.parts and path.parent.name != "progress"]


@pytest.mark.parametrize("flag", ["--config-file", "--dataset"])
def test_a_missing_yaml_file_and_no_data_set_are_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: str
) -> None:
    options = ["--eval-only", *tiny_options(tmp_path)]
    assert call(monkeypatch, flag, "no/such.yaml", *options).startswith("error: no/such.yaml: ")
    assert call(monkeypatch, *options).startswith("error: DATASETS.TEST: ")


def test_bad_images_are_skipped_and_listed_and_the_others_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, good = write_dataset(tmp_path / "scenes", len(IMAGES) + 2), write_dataset(tmp_path / "good", 2)
    for number, (subfolder, change, _) in enumerate(IMAGES.values(), start=2):
        change(dataset.parent / subfolder / f"scene_{number:03}.png")
    options = ("TEST.ON_ERROR", "skip", "TEST.BATCH_SIZE", "3")
    assert run(monkeypatch, dataset, *options) == ""
    assert run(monkeypatch, good, *options) == ""
    report, expected = read_results(dataset), read_results(good)
    assert report["images"] == expected["images"] == 2
    names = [f"{named}/scene_{number:03}.png" for number, (*_, named) in enumerate(IMAGES.values(), start=2)]
    skipped = {"/".join(Path(entry["file"]).parts[-2:]): entry["reason"] for entry in report["skipped"]}
    numbers = [int(Path(file).stem.removeprefix("scene_")) for file in skipped]
    assert sorted(numbers) == list(range(2, len(IMAGES) + 2))
    for number, reason in zip(numbers, skipped.values(), strict=True):
        assert names[number - 2] in reason
    for key in (*HEADLINE, "per_class"):
        assert report[key] == expected[key]


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_a_missing_image_of_a_registered_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_error: str) -> None:
    write_scenes(tmp_path, 2)
    (tmp_path / "images" / "scene_000.png").unlink()
    name = f"listed_{tmp_path.name}"  # like Detectron2's own data sets, whose lists may name missing files
    records = [
        {"file_name": str(tmp_path / "images" / file), "sem_seg_file_name": str(tmp_path / "annotations" / file)}
        for file in ("scene_000.png", "scene_001.png")
    ]
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(stuff_classes=list(CLASSES), ignore_label=255)
    options = ["--eval-only", *tiny_options(tmp_path), "DATASETS.TEST", f"('{name}',)", "TEST.ON_ERROR", on_error]
    message = call(monkeypatch, *options)
    if on_error == "stop":
        assert message.startswith(f"error: {tmp_path / 'images' / 'scene_000.png'}: ")
        return
    assert message == ""
    report = json.loads((tmp_path / "output" / "inference" / name / "metrics.json").read_text())
    assert report["images"] == 1
    assert [Path(entry["file"]).name for entry in report["skipped"]] == ["scene_000.png"]
