"""Decisions of the proposal: values, class lists, splits, lists, uncertain cases."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cliptrase_d2.data.proposal import propose
from cliptrase_d2.data.proposal.content import MAX_LABEL_FILES
from cliptrase_d2.utils.errors import InputError
from tests.data.proposal.folders import Color, write_colors, write_masks, write_pictures, write_text

STEMS = ("a", "b", "c")
LABELS = [f"labels/{stem}.png" for stem in STEMS]
RED, GREEN, BLACK = (250, 0, 0), (0, 250, 0), (0, 0, 0)


def write_images(root: Path) -> None:
    write_pictures(root, *(f"images/{stem}.jpg" for stem in STEMS))


def propose_values(root: Path, values: Sequence[int], classes: str = "", name: str = "classes.txt") -> dict[str, Any]:
    """Return the keys besides the name and the folders for labels of some values."""
    write_images(root)
    write_masks(root, LABELS, values)
    if classes:
        write_text(root, name, classes)
    keys = propose(root).keys
    assert (keys.pop("images"), keys.pop("labels")) == ("images", "labels")
    del keys["name"]
    return keys


def propose_colors(root: Path, colors: Sequence[Color]) -> dict[str, Any]:
    write_images(root)
    write_colors(root, LABELS, colors)
    return propose(root).keys


@pytest.mark.parametrize(
    ("values", "classes", "expected"),
    [
        ([0, 1, 2], "x\ny\nz", {"classes": "classes.txt"}),
        ([0, 2, 255], "x\ny\nz", {"classes": "classes.txt"}),
        ([1, 2, 3], "x\ny\nz", {"classes": "classes.txt", "reduce_zero_label": True}),
        ([0, 1, 3], "x\ny\nz", {"classes": "classes.txt", "reduce_zero_label": True}),
        ([0, 1, 2], "1: x\n2: y", {"classes": ["x", "y"], "reduce_zero_label": True}),
        ([1, 2], "background\ny\nz", {"classes": ["y", "z"], "reduce_zero_label": True}),
        ([0, 2], "background\ny\nz", {"classes": "classes.txt"}),
        ([0, 2], "unlabeled\ny\nz", {"classes": ["y", "z"], "reduce_zero_label": True}),
        ([0, 2], "x\ny\nvoid", {"classes": ["x", "y"], "label_map": {0: 0, 1: 1, 2: 255}}),
        ([0, 255], "x\ny", {"classes": "classes.txt", "label_map": {0: 0, 255: 1}}),
        ([0, 1], "x\ny", {"classes": "classes.txt"}),
        ([0, 255], "x", {"classes": ["x"], "background": "common", "label_map": {0: 1, 255: 0}}),
        ([0, 1], "x", {"classes": ["x"], "background": "common", "label_map": {0: 1, 1: 0}}),
    ],
)
def test_values_with_a_class_list(tmp_path: Path, values: list[int], classes: str, expected: dict[str, Any]) -> None:
    assert propose_values(tmp_path, values, classes) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 1, 4], {"classes": [f"class_{index}" for index in range(5)]}),
        ([0, 255], {"classes": ["class_0", "class_255"], "label_map": {0: 0, 255: 1}}),
        ([0, 1, 255], {"classes": ["class_0", "class_1"]}),
        ([1, 2, 3, 255], {"classes": ["class_1", "class_2", "class_3"], "reduce_zero_label": True}),
        ([0, 100, 200], {"classes": ["class_0", "class_100", "class_200"], "label_map": {0: 0, 100: 1, 200: 2}}),
        ([0, 1, 2, 65535], {"classes": ["class_0", "class_1", "class_2"], "ignore_label": 65535}),
    ],
)
def test_values_without_names(tmp_path: Path, values: list[int], expected: dict[str, Any]) -> None:
    assert propose_values(tmp_path, values) == expected


def test_negative_value_is_the_ignore_label(tmp_path: Path) -> None:
    write_images(tmp_path)
    write_masks(tmp_path, [f"labels/{stem}.tif" for stem in STEMS], [-1, 0, 1, 2])
    keys = propose(tmp_path).keys
    assert (keys["ignore_label"], keys["classes"]) == (-1, ["class_0", "class_1", "class_2"])


def test_single_value_is_doubted(tmp_path: Path) -> None:
    propose_values(tmp_path, [0])
    assert any("only value" in note for note in propose(tmp_path).notes)


def test_many_values_need_a_list(tmp_path: Path) -> None:
    for index, stem in enumerate(STEMS):
        write_pictures(tmp_path, f"images/{stem}.jpg")
        write_masks(tmp_path, [f"labels/{stem}.png"], list(range(400 * index, 400 * index + 24)))
    draft = propose(tmp_path)
    assert draft.keys["ignore_label"] == 65535
    assert draft.keys["classes"][-1] == "class_823"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("id2label.json", '{"0": "x", "1": "y", "2": "z"}'),
        ("config.json", '{"model_type": "segformer", "id2label": {"0": "x", "1": "y", "2": "z"}}'),
        ("class_names.txt", "0: x\n1: y\n2: z"),
        ("labels/classes.csv", "id,name\n0,x\n1,y\n2,z\n"),
        ("meta/label_list.json", '["x", "y", "z"]'),
    ],
)
def test_class_lists_of_other_forms(tmp_path: Path, name: str, content: str) -> None:
    propose_values(tmp_path, [0, 1, 2], content, name)
    draft = propose(tmp_path)
    if name == "config.json":  # read, but not by the key `classes`
        assert draft.keys["classes"] == ["x", "y", "z"]
    else:
        assert draft.keys["classes"] == name


def test_class_list_that_is_too_short_is_not_used(tmp_path: Path) -> None:
    assert propose_values(tmp_path, [0, 5], "x\ny")["classes"][5] == "class_5"
    assert any("classes.txt" in note for note in propose(tmp_path).notes)


def test_list_of_images_is_no_class_list(tmp_path: Path) -> None:
    assert propose_values(tmp_path, [0, 1, 2], "a\nb\nc", "names.txt")["classes"] == ["class_0", "class_1", "class_2"]


def test_colours_without_a_table(tmp_path: Path) -> None:
    keys = propose_colors(tmp_path, [BLACK, RED, GREEN])
    assert set(keys["label_colors"]) == {BLACK, RED, GREEN}
    assert sorted(keys["label_colors"].values()) == keys["classes"] == ["class_0", "class_1", "class_2"]


def test_cityscapes_colours(tmp_path: Path) -> None:
    keys = propose_colors(tmp_path, [(128, 64, 128), (70, 130, 180), (0, 0, 142), (220, 20, 60), BLACK])
    assert keys["label_colors"] == "@cityscapes"
    assert keys["classes"][10] == "sky"


def test_indices_in_three_channels(tmp_path: Path) -> None:
    keys = propose_colors(tmp_path, [(0, 0, 0), (1, 1, 1), (2, 2, 2)])
    assert keys["classes"] == ["class_0", "class_1", "class_2"]
    assert "label_colors" not in keys


def test_colours_without_a_name_are_listed(tmp_path: Path) -> None:
    write_text(tmp_path, "class_dict.csv", "name,r,g,b\nx,250,0,0\ny,0,250,0\n")
    keys = propose_colors(tmp_path, [RED, GREEN, (1, 2, 3)])
    assert keys["label_colors"] == keys["classes"] == "class_dict.csv"
    assert any("(1, 2, 3)" in note for note in propose(tmp_path).notes)


def test_palettes_that_differ_are_read_as_colours(tmp_path: Path) -> None:
    write_images(tmp_path)
    for name, (first, second) in zip(LABELS, ((RED, GREEN), (GREEN, BLACK), (BLACK, RED)), strict=True):
        write_masks(tmp_path, [name], [0, 1], [*first, *second])
    keys = propose(tmp_path).keys
    assert set(keys["label_colors"]) == {RED, GREEN, BLACK}


def test_too_many_colours_for_classes(tmp_path: Path) -> None:
    write_images(tmp_path)
    for index, name in enumerate(LABELS):
        write_colors(tmp_path, [name], [(index, shade, 200) for shade in range(24)])
    assert any("72 colours" in note for note in propose(tmp_path).notes)


@pytest.mark.parametrize(
    "lines", ["a\nb", "a.jpg\nb.jpg", "images/a.jpg labels/a.png\nimages/b.jpg labels/b.png", "/x/a\n/x/b\n"]
)
def test_list_of_a_split(tmp_path: Path, lines: str) -> None:
    write_text(tmp_path, "lists/val.txt", lines)
    write_text(tmp_path, "lists/train.txt", "c")
    write_text(tmp_path, "lists/trainval.txt", "a\nb\nc")
    assert propose_values(tmp_path, [0, 1, 2])["image_list"] == "lists/val.txt"
    assert any("lists/train.txt" in note for note in propose(tmp_path).notes)


def test_table_of_images_is_no_list(tmp_path: Path) -> None:
    write_text(tmp_path, "annotations/test.txt", "a 1 1 1\nb 5 2 1\n")
    assert "image_list" not in propose_values(tmp_path, [0, 1, 2])


def test_images_without_labels_are_counted(tmp_path: Path) -> None:
    write_pictures(tmp_path, "images/d.jpg")
    propose_values(tmp_path, [0, 1, 2])
    assert any(note.startswith("Without labels: 1 picture") for note in propose(tmp_path).notes)


def test_prediction_only(tmp_path: Path) -> None:
    write_images(tmp_path)
    draft = propose(tmp_path)
    assert draft.keys == {"name": draft.keys["name"], "images": "images", "classes": ["class_0", "class_1"]}
    write_text(tmp_path, "classes.txt", "x\ny")
    assert propose(tmp_path).keys["classes"] == "classes.txt"


def test_masks_of_other_names_are_named(tmp_path: Path) -> None:
    write_images(tmp_path)
    write_masks(tmp_path, ["masks/x.png", "masks/y.png"], [0, 1])
    draft = propose(tmp_path)
    assert "labels" not in draft.keys
    assert any("masks" in note for note in draft.notes)


@pytest.mark.parametrize("file", ["", "notes.md", "labels/a.png"])
def test_folder_without_pictures(tmp_path: Path, file: str) -> None:
    if file.endswith(".png"):
        write_masks(tmp_path, [file], [0, 1, 2])
    elif file:
        write_text(tmp_path, file, "text")
    with pytest.raises(InputError, match=file[-4:].partition(".")[2] or "no files"):
        propose(tmp_path)


def test_broken_label_files_are_counted(tmp_path: Path) -> None:
    write_images(tmp_path)
    write_masks(tmp_path, LABELS, [0, 1])
    (tmp_path / LABELS[1]).write_bytes(b"broken")
    assert any("1 label file," in note for note in propose(tmp_path).notes)


def test_few_of_many_files_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 20_000
    for folder, suffix in (("images", ".jpg"), ("labels", ".png")):
        (tmp_path / folder).mkdir()
        for index in range(count):
            (tmp_path / folder / f"{index}{suffix}").touch()
    opened: list[Path] = []
    original = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *a, **k: opened.append(self) or original(self, *a, **k))
    draft = propose(tmp_path)
    assert (draft.keys["images"], draft.keys["labels"]) == ("images", "labels")
    assert len(opened) < 4 * MAX_LABEL_FILES
    assert any(f"{MAX_LABEL_FILES} of {count:,}" in note for note in draft.notes)


def test_link_to_a_folder_above_ends(tmp_path: Path) -> None:
    write_images(tmp_path)
    write_masks(tmp_path, LABELS, [0, 1])
    os.symlink(tmp_path, tmp_path / "images" / "loop")
    assert propose(tmp_path).keys["images"] == "images"


def test_hidden_files_are_left_out(tmp_path: Path) -> None:
    write_pictures(tmp_path, ".thumbs/a.jpg", "images/.a.jpg", "__MACOSX/a.jpg")
    with pytest.raises(InputError, match="no files"):
        propose(tmp_path)


@pytest.mark.parametrize(("name", "expected"), [("my set (2)", "my_set_2"), ("___", "my_set"), ("été", "été")])
def test_name(tmp_path: Path, name: str, expected: str) -> None:
    write_pictures(tmp_path, f"{name}/images/a.jpg")
    assert propose(tmp_path / name).keys["name"] == expected


def test_data_set_file_of_the_folder_is_named(tmp_path: Path) -> None:
    write_text(tmp_path, "mine.yaml", "name: mine\nimages: images\nclasses: [x, y]\n")
    propose_values(tmp_path, [0, 1])
    assert any("mine.yaml" in note for note in propose(tmp_path).notes)


def test_files_are_not_changed(tmp_path: Path) -> None:
    propose_values(tmp_path, [0, 1, 2], "x\ny\nz")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    propose(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_sixteen_bit_pictures(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    (tmp_path / "images").mkdir()
    write_masks(tmp_path, LABELS, [0, 1, 2])
    pixels = np.linspace(0, 3000, 4 * 24 * 24).reshape(4, 24, 24).astype(np.uint16)
    for stem in STEMS:
        profile = {"count": 4, "height": 24, "width": 24, "dtype": "uint16", "photometric": "minisblack"}
        with rasterio.open(tmp_path / f"images/{stem}.tif", "w", driver="GTiff", **profile) as file:
            file.write(pixels)
    keys = propose(tmp_path).keys
    assert keys["bands"] == [3, 2, 1]
    assert keys["stretch"] == [29, 2970]  # 1 and 99 % of 3000, as whole numbers


def test_eight_bit_tiff_needs_no_keys(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    for stem in STEMS:
        Image.fromarray(pixels).save(tmp_path / f"images/{stem}.tif")
    write_masks(tmp_path, LABELS, [0, 1])
    assert propose(tmp_path).keys.keys() == {"name", "images", "labels", "classes"}
