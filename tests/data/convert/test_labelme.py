"""LabelMe's files: every type of shape, special labels, paths and faults."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from cliptrase_d2.utils.errors import InputError
from tests.data.convert.sets import convert, labels, write_json, write_picture

FREE = 255


def shape(label: str, points: Any, kind: str = "polygon", **values: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": kind, "flags": {}, **values}


def encode(mask: Any) -> str:
    stream = io.BytesIO()
    Image.fromarray(np.array(mask, dtype=np.uint8) * 255).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def write(folder: Path, *shapes: Any, name: str = "a", **values: Any) -> Path:
    write_picture(folder / f"{name}.png", (4, 5))
    content = {"version": "5.5.0", "shapes": list(shapes), "imagePath": f"{Path(name).name}.png", "imageData": None}
    write_json(folder / f"{name}.json", {**content, "imageHeight": 4, "imageWidth": 5, **values})
    return folder


def draw(tmp_path: Path, *shapes: Any, **values: Any) -> list[list[int]]:
    convert(write(tmp_path / "set", *shapes, **values), tmp_path / "out")
    return labels(tmp_path / "out")


RECTANGLE = [[FREE] * 5, [FREE, 0, 0, 0, FREE], [FREE, 0, 0, 0, FREE], [FREE] * 5]


def test_polygon_covers_its_points_and_the_lines_between_them(tmp_path: Path) -> None:
    assert draw(tmp_path, shape("cat", [[1, 1], [3, 1], [3, 2], [1, 2]])) == RECTANGLE


def test_triangle(tmp_path: Path) -> None:
    expected = [[0, FREE, FREE, FREE, FREE], [0, 0, FREE, FREE, FREE], [0, 0, 0, FREE, FREE], [0, 0, 0, 0, FREE]]
    assert draw(tmp_path, shape("cat", [[0, 0], [3, 3], [0, 3]])) == expected


def test_points_between_pixels_belong_to_the_pixel_that_contains_them(tmp_path: Path) -> None:
    assert draw(tmp_path, shape("cat", [[1.9, 1.9], [3.9, 1.2], [3.1, 2.9], [1, 2.5]])) == RECTANGLE


@pytest.mark.parametrize("seed", range(5))
def test_polygons_equal_labelmes_own_export(tmp_path: Path, seed: int) -> None:
    points = np.random.default_rng(seed).uniform(-1, 6, (7, 2)).tolist()
    canvas = Image.new("L", (5, 4))
    ImageDraw.Draw(canvas).polygon([tuple(point) for point in points], outline=1, fill=1)  # labelme/utils/shape.py
    assert draw(tmp_path, shape("cat", points)) == np.where(np.asarray(canvas) > 0, 0, FREE).tolist()


def test_rectangle_from_any_corner(tmp_path: Path) -> None:
    assert draw(tmp_path, shape("cat", [[3, 1], [1, 2]], "rectangle")) == RECTANGLE


def test_circle_of_a_centre_and_a_point_on_it(tmp_path: Path) -> None:
    cross = [[FREE, FREE, 0, FREE, FREE], [FREE, 0, 0, 0, FREE], [FREE, FREE, 0, FREE, FREE], [FREE] * 5]
    assert draw(tmp_path, shape("cat", [[2, 1], [2, 2]], "circle")) == cross


def test_mask_between_two_corners(tmp_path: Path) -> None:
    data = encode([[1, 0, 1], [1, 1, 1]])
    expected = [[FREE] * 5, [FREE, 0, FREE, 0, FREE], [FREE, 0, 0, 0, FREE], [FREE] * 5]
    assert draw(tmp_path, shape("cat", [[1.0, 1.0], [3.0, 2.0]], "mask", mask=data)) == expected


def test_mask_that_leaves_the_picture_is_clipped(tmp_path: Path) -> None:
    data = encode([[1, 0, 1], [1, 1, 1]])
    assert draw(tmp_path, shape("cat", [[-1, -1], [1, 0]], "mask", mask=data))[0] == [0, 0, FREE, FREE, FREE]


def test_later_shapes_are_on_top_and_special_labels_are_no_classes(tmp_path: Path) -> None:
    all_points = [[0, 0], [4, 3]]
    shapes = [
        shape("cat", all_points, "rectangle"),
        shape("dog", [[0, 0], [1, 3]], "rectangle"),
        shape("__ignore__", [[0, 0], [4, 0]], "rectangle"),
        shape("_background_", [[0, 3], [4, 3]], "rectangle"),
    ]
    _, conversion = convert(write(tmp_path / "set", *shapes), tmp_path / "out", background="floor")
    assert labels(tmp_path / "out") == [[255] * 5, [1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [2] * 5]
    assert conversion.spec.classes == ("cat", "dog", "floor")
    assert conversion.findings.pairs == {(0, 1): 8}
    assert conversion.findings.ignored == 5


@pytest.mark.parametrize("kind", ["point", "line", "linestrip", "points", "cuboid"])
def test_shapes_without_an_area_are_skipped_and_counted(tmp_path: Path, kind: str) -> None:
    shapes = [shape("cat", [[1, 1], [3, 2]], "rectangle"), shape("cat", [[0, 0], [4, 0]], kind)]
    _, conversion = convert(write(tmp_path / "set", *shapes), tmp_path / "out")
    assert labels(tmp_path / "out") == RECTANGLE
    (note,) = conversion.findings.notes.counts
    assert kind in note
    assert "shape 2" in conversion.findings.notes.places[note]


def test_polygon_of_two_points_and_polygon_outside_the_picture(tmp_path: Path) -> None:
    shapes = [
        shape("cat", [[1, 1], [3, 1]]),
        shape("cat", [[7, 1], [9, 1], [9, 3]]),
        shape("cat", [[1, 1], [3, 2]], "rectangle"),
    ]
    _, conversion = convert(write(tmp_path / "set", *shapes), tmp_path / "out")
    assert labels(tmp_path / "out") == RECTANGLE
    assert len(conversion.findings.notes.counts) == 3  # too few points; clipped; no pixel


def test_type_of_old_versions_and_embedded_picture(tmp_path: Path) -> None:
    old = {"label": "cat", "points": [[1, 1], [3, 1], [3, 2], [1, 2]]}
    assert draw(tmp_path, old, imageData="aGVsbG8=", imageHeight=None, imageWidth=None) == RECTANGLE


def test_paths_in_folders_with_both_slashes(tmp_path: Path) -> None:
    square = shape("cat", [[1, 1], [3, 2]], "rectangle")
    write(tmp_path / "set", square, name="images/a")
    (tmp_path / "set" / "images" / "a.json").rename(tmp_path / "set" / "a.json")
    content = (tmp_path / "set" / "a.json").read_text().replace('"a.png"', '"images\\\\a.png"')
    (tmp_path / "set" / "a.json").write_text(content)
    convert(tmp_path / "set", tmp_path / "out")
    assert labels(tmp_path / "out", "images/a") == RECTANGLE


@pytest.mark.parametrize("path", ["../pictures/a.png", "C:\\set\\a.png", "/set/a.png"])
def test_folder_of_pictures_replaces_the_paths_in_the_files(tmp_path: Path, path: str) -> None:
    write(tmp_path / "set", shape("cat", [[1, 1], [3, 2]], "rectangle"), imagePath=path)
    with pytest.raises(InputError, match="not a path below"):
        convert(tmp_path / "set", tmp_path / "out")
    convert(tmp_path / "set", tmp_path / "out", images=tmp_path / "set")
    assert labels(tmp_path / "out") == RECTANGLE


def test_order_of_labels_txt_and_of_the_user(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", shape("cat", [[1, 1], [3, 2]], "rectangle"))
    (folder / "labels.txt").write_text("__ignore__\n_background_\nzebra\ncat\n")
    _, conversion = convert(folder, tmp_path / "listed")
    assert conversion.spec.classes == ("zebra", "cat")
    assert labels(tmp_path / "listed")[1][1] == 1
    _, conversion = convert(folder, tmp_path / "given", classes=("cat", "cow"))
    assert conversion.spec.classes == ("cat", "cow")
    (folder / "labels.txt").write_text("zebra\n")
    with pytest.raises(InputError, match=r"labels\.txt.*'cat'"):
        convert(folder, tmp_path / "wrong")


def test_empty_files_are_left_out_and_other_json_is_counted(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", shape("cat", [[1, 1], [3, 2]], "rectangle"))
    write(folder, name="b")
    write_json(folder / "other.json", {"a": 1})
    _, conversion = convert(folder, tmp_path / "out")
    assert (conversion.pictures, conversion.empty) == (1, 1)
    assert "other.json" in next(iter(conversion.findings.notes.places.values()))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"imagePath": "b.png"}, r"b\.png"),
        ({"imagePath": "b.png", "imageData": "aGVsbG8="}, "labelme_export_json"),
        ({"imageHeight": 5, "imageWidth": 4}, "4 x 5 pixels.*5 x 4"),
        ({"imageHeight": None}, "imageHeight None"),
        ({"imagePath": None}, "imagePath None"),
        ({"shapes": [shape("cat", [[1, 1], [3, float("nan")], [2, 2]])]}, "shape 1.*not a number"),
        ({"shapes": [shape("cat", [[1, 1], [3, 1e7], [2, 2]])]}, "shape 1.*far outside"),
        ({"shapes": [shape("cat", [[1, 1], [3], [2, 2]])]}, "not pairs of numbers"),
        ({"shapes": [shape("cat", [[1, 1, 1], [2, 2, 2]])]}, "not pairs of numbers"),
        ({"shapes": [shape("cat", "abc")]}, "points 'abc'"),
        ({"shapes": [shape(3, [[1, 1], [3, 1], [2, 2]])]}, "label 3"),  # type: ignore[arg-type]
        ({"shapes": [shape("cat", [[1, 1]], "rectangle")]}, "rectangle of 1 points"),
        ({"shapes": [shape("cat", [[1, 1], [2, 2], [3, 3]], "circle")]}, "circle of 3 points"),
        ({"shapes": [shape("cat", [[1, 1], [2, 2]], "mask", mask=encode([[1, 1, 1]]))]}, "mask of 3 x 1"),
        ({"shapes": [shape("cat", [[1, 1], [2, 2]], "mask", mask="///")]}, "base64"),
        ({"shapes": [shape("cat", [[1, 1], [2, 2]], "mask")]}, "mask None"),
        ({"shapes": [shape("cat", [[1, 1], [2, 2]], "mask", mask="aGVsbG8=")]}, "unreadable"),
        ({"shapes": [7]}, "7 in place of an object"),
        ({"shapes": [shape("", [[1, 1], [3, 1], [2, 2]])]}, "invalid class name"),
    ],
)  # fmt: skip
def test_faults_are_one_line(tmp_path: Path, values: Any, message: str) -> None:
    folder = write(tmp_path / "set", shape("cat", [[1, 1], [3, 2]], "rectangle"), **values)
    with pytest.raises(InputError, match=message) as error:
        convert(folder, tmp_path / "out")
    assert "\n" not in str(error.value)


def test_two_files_of_one_picture(tmp_path: Path) -> None:
    square = shape("cat", [[1, 1], [3, 2]], "rectangle")
    write(write(tmp_path / "set", square), square, name="b", imagePath="a.png")
    with pytest.raises(InputError, match=r"'a\.png'"):
        convert(tmp_path / "set", tmp_path / "out")


def test_two_pictures_of_one_stem(tmp_path: Path) -> None:
    square = shape("cat", [[1, 1], [3, 2]], "rectangle")
    write(write(tmp_path / "set", square), square, name="b", imagePath="a.jpg")
    write_picture(tmp_path / "set" / "a.jpg", (4, 5))
    with pytest.raises(InputError, match=r"a\.jpg"):
        convert(tmp_path / "set", tmp_path / "out")
