"""COCO's instances: polygons, run lengths, crowds, and every fault of a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco

from cliptrase_d2.data.custom import read_dataset_file
from cliptrase_d2.data.register import load_records
from cliptrase_d2.utils.errors import InputError
from tests.data.convert.sets import convert, labels, write_json, write_picture

SQUARE = [1, 1, 3, 1, 3, 3, 1, 3]  # rows and columns 1 and 2
SQUARE_LABELS = [[255] * 5, [255, 0, 0, 255, 255], [255, 0, 0, 255, 255], [255] * 5]
ALL = [0, 0, 5, 0, 5, 4, 0, 4]


def build(*segmentations: Any, categories: tuple[int, ...] = (), **image: Any) -> dict[str, Any]:
    """Return the content of a file with one picture of 4 x 5 pixels."""
    numbers = categories or (3,) * len(segmentations)
    return {
        "images": [{"id": 9, "file_name": "a.png", "height": 4, "width": 5, **image}],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": [
            {"id": index, "image_id": 9, "category_id": number, "segmentation": segmentation, "iscrowd": 0}
            for index, (segmentation, number) in enumerate(zip(segmentations, numbers, strict=True))
        ],
    }


def write(folder: Path, content: Any, name: str = "a.png") -> Path:
    write_picture(folder / "images" / name, (4, 5))
    return write_json(folder / "instances.json", content)


def test_polygon_covers_the_pixels_between_its_corners(tmp_path: Path) -> None:
    source, conversion = convert(write(tmp_path, build([SQUARE])), tmp_path / "out")
    assert labels(tmp_path / "out") == SQUARE_LABELS
    assert source.format == "coco"
    assert conversion.findings.pixels.tolist() == [4, 0]
    assert conversion.findings.unlabelled == 16


def test_classes_are_in_the_order_of_ids_with_gaps(tmp_path: Path) -> None:
    _, conversion = convert(write(tmp_path, build([SQUARE], categories=(7,))), tmp_path / "out")
    assert conversion.spec.classes == ("cat", "dog")
    assert labels(tmp_path / "out")[1][1] == 1


RUNS = [5, 2, 2, 2, 9]  # columns of 4: rows 1 and 2 of column 1, rows 1 and 2 of column 2


@pytest.mark.parametrize("is_compressed", [False, True])
def test_run_lengths(tmp_path: Path, is_compressed: bool) -> None:
    runs: Any = {"size": [4, 5], "counts": RUNS}
    if is_compressed:
        runs["counts"] = coco.frPyObjects(runs, 4, 5)["counts"].decode()
    convert(write(tmp_path, build(runs)), tmp_path / "out")
    assert labels(tmp_path / "out") == SQUARE_LABELS


def test_smaller_shapes_are_on_top_in_any_order_and_overlaps_are_counted(tmp_path: Path) -> None:
    for name, order in (("first", (0, 1)), ("last", (1, 0))):
        shapes = [([SQUARE], 7), ([ALL], 3)]
        content = build(*(shapes[index][0] for index in order), categories=tuple(shapes[index][1] for index in order))
        _, conversion = convert(write(tmp_path, content), tmp_path / name)
        assert labels(tmp_path / name)[1] == [0, 1, 1, 0, 0]
        assert conversion.findings.overlapped == 4
        assert conversion.findings.pairs == {(0, 1): 4}


def test_overlap_with_the_same_class_is_none(tmp_path: Path) -> None:
    _, conversion = convert(write(tmp_path, build([SQUARE], [ALL])), tmp_path / "out")
    assert conversion.findings.overlapped == 0


@pytest.mark.parametrize(("keep", "outside"), [(False, 255), (True, 1)])
def test_crowds_are_ignored_below_all_others(tmp_path: Path, keep: bool, outside: int) -> None:
    content = build([SQUARE], [ALL], categories=(3, 7))
    content["annotations"][1] |= {"iscrowd": 1, "segmentation": {"size": [4, 5], "counts": [0, 20]}}
    _, conversion = convert(write(tmp_path, content), tmp_path / "out", background="other", keep_crowds=keep)
    assert labels(tmp_path / "out") == np.where(np.array(SQUARE_LABELS) == 0, 0, outside).tolist()
    assert conversion.findings.ignored == (0 if keep else 16)


def test_background_names_unlabelled_pixels_and_keeps_empty_pictures(tmp_path: Path) -> None:
    content = build([SQUARE])
    content["images"].append({"id": 1, "file_name": "b.png", "height": 2, "width": 2})
    write_picture(tmp_path / "images" / "b.png", (2, 2))
    path = write(tmp_path, content)
    _, conversion = convert(path, tmp_path / "ignored")
    assert (conversion.pictures, conversion.empty) == (1, 1)
    _, conversion = convert(path, tmp_path / "named", background="floor")
    assert conversion.spec.classes == ("cat", "dog", "floor")
    assert labels(tmp_path / "named", "b") == [[2, 2], [2, 2]]
    assert conversion.findings.pixels.tolist() == [4, 0, 20]
    _, conversion = convert(path, tmp_path / "existing", background="dog")
    assert labels(tmp_path / "existing", "b") == [[1, 1], [1, 1]]


def test_pictures_in_folders_keep_their_folders(tmp_path: Path) -> None:
    content = build([SQUARE], file_name="day\\a.png")
    content["images"].append({"id": 1, "file_name": "night/b.png"})
    content["annotations"].append({"image_id": 1, "category_id": 7, "segmentation": [[0, 0, 2, 0, 2, 1, 0, 1]]})
    write_picture(tmp_path / "images" / "night" / "b.png", (2, 2))
    convert(write(tmp_path, content, "day/a.png"), tmp_path / "out")
    assert labels(tmp_path / "out", "day/a") == SQUARE_LABELS
    assert labels(tmp_path / "out", "night/b") == [[1, 1], [255, 255]]
    assert len(load_records(read_dataset_file(tmp_path / "out" / "dataset.yaml"))) == 2


def test_other_pictures_of_the_folder_are_left_out_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path, build([SQUARE]))
    write_picture(tmp_path / "images" / "other.png", (4, 5))
    _, conversion = convert(path, tmp_path / "out")
    assert conversion.unlisted == 1
    assert len(load_records(read_dataset_file(tmp_path / "out" / "dataset.yaml"))) == 1


def test_more_than_255_classes_need_16_bits(tmp_path: Path) -> None:
    content = build([SQUARE])
    content["categories"] = [{"id": number, "name": f"c{number}"} for number in range(300)]
    content["annotations"][0]["category_id"] = 299
    _, conversion = convert(write(tmp_path, content), tmp_path / "out")
    assert conversion.spec.ignore_label == 65535
    assert labels(tmp_path / "out")[1] == [65535, 299, 299, 65535, 65535]


def test_classes_of_the_user_with_synonyms(tmp_path: Path) -> None:
    path = write(tmp_path, build([SQUARE]))
    _, conversion = convert(path, tmp_path / "out", classes=("dog", "kitten;cat"))
    assert conversion.spec.classes == ("dog", "kitten;cat")
    assert labels(tmp_path / "out")[1][1] == 1
    with pytest.raises(InputError, match=r"'cat', which is not in --classes"):
        convert(path, tmp_path / "out", classes=("dog", "cats"))


def test_polygons_that_leave_the_picture_are_clipped_and_degenerate_ones_skipped(tmp_path: Path) -> None:
    content = build([[-5, -5, 2, -5, 2, 9, -5, 9]], [[1, 1, 3, 3]], [[1, 1, 2, 1, 2, 1]], [])
    _, conversion = convert(write(tmp_path, content), tmp_path / "out")
    assert labels(tmp_path / "out") == [[0, 0, 255, 255, 255]] * 4
    assert sorted(conversion.findings.notes.counts.values()) == [1, 1, 1, 1]
    kinds = " ".join(conversion.findings.notes.counts)
    assert all(word in kinds for word in ("clipped", "3 points", "no pixel", "without a segmentation"))


def test_masks_of_contours_are_drawn_exactly(tmp_path: Path) -> None:
    mask = cv2.circle(np.zeros((60, 70), np.uint8), (40, 35), 30, 1, -1)
    (contour,), _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    content = build([contour.ravel().tolist()], height=60, width=70)
    path = write_json(tmp_path / "instances.json", content)
    write_picture(tmp_path / "images" / "a.png", (60, 70))
    convert(path, tmp_path / "out")
    assert np.array_equal(np.array(labels(tmp_path / "out")) == 0, mask == 1)
    convert(path, tmp_path / "corners", contours=False)
    expected = coco.decode(coco.merge(coco.frPyObjects(content["annotations"][0]["segmentation"], 60, 70)))
    assert np.array_equal(np.array(labels(tmp_path / "corners")) == 0, expected == 1)
    assert expected.sum() < mask.sum()


def test_exif_rotation_turns_the_size(tmp_path: Path) -> None:
    path = write(tmp_path, build([SQUARE]))
    exif = {0x0112: 6}
    for suffix in ("png", "jpg", "tif"):
        write_picture(
            tmp_path / "images" / "a.png",
            (5, 4),
            exif=_exif(exif),
            format={"jpg": "JPEG", "tif": "TIFF"}.get(suffix, "PNG"),
        )
        convert(path, tmp_path / suffix)
        assert labels(tmp_path / suffix) == SQUARE_LABELS
    write_picture(tmp_path / "images" / "a.png", (4, 5), exif=_exif(exif))
    with pytest.raises(InputError, match=r"5 x 4 pixels.*4 x 5 after its EXIF rotation"):
        convert(path, tmp_path / "out")


def _exif(tags: dict[int, int]) -> Any:
    from PIL import Image

    exif = Image.Exif()
    exif.update(tags)
    return exif


def _change(place: str, **values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content[place][0].update(values)


def _append(place: str, **values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content[place].append({**content[place][0], **values})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_change("images", file_name="b.png"), r"1 of 1|no picture 'b\.png'"),
        (_change("images", file_name="../../etc/passwd"), "passwd.*not a path below"),
        (_change("images", file_name="/etc/passwd"), "passwd.*not a path below"),
        (_change("images", file_name="C:\\a.png"), "not a path below"),
        (_change("images", file_name=""), "not a path below"),
        (_change("images", file_name=7), "file_name 7"),
        (_change("images", height=5), "5 x 5 pixels.*5 x 4"),
        (_change("images", height=-5), "5 x -5 pixels"),
        (_change("images", height="4"), "height '4'"),
        (_append("images"), "two images with the id 9"),
        (_append("images", id=1), r"two images with the file_name 'a\.png'"),
        (_append("categories", name="x"), "two categories with the id 7"),
        (_append("categories", id=5), "two categories of the name 'dog'"),
        (_change("categories", name=None), "name None"),
        (_change("annotations", category_id=4), "annotation 0: category_id 4"),
        (_change("annotations", category_id=[4]), "category_id a list"),
        (_change("annotations", image_id=4), "annotation 0: image_id 4"),
        (_change("annotations", image_id={}), "image_id a dict"),
        (_change("annotations", segmentation=[]), "without any segmentation"),
        (_change("annotations", segmentation=[[1, 1, 3, 1, 3]]), "not pairs of numbers"),
        (_change("annotations", segmentation=[["1", "1", "3", "1", "3", "3"]]), "not pairs of numbers"),
        (_change("annotations", segmentation=[[1, 1, 3, [1], 3, 3]]), "not pairs of numbers"),
        (_change("annotations", segmentation=[[1, 1, float("nan"), 1, 3, 3]]), "not a number"),
        (_change("annotations", segmentation=[[1, 1, float("inf"), 1, 3, 3]]), "not a number"),
        (_change("annotations", segmentation=[[1, 1, 1e9, 1, 3, 3]]), "far outside"),
        (_change("annotations", segmentation=[[1, 1, 10**400, 1, 3, 3]]), "not pairs of numbers"),
        (_change("annotations", segmentation=[3]), "segmentation a list"),
        (_change("annotations", segmentation={"size": [5, 4], "counts": RUNS}), "mask of the size"),
        (_change("annotations", segmentation={"size": [4, 5], "counts": [5, 2]}), "run lengths of 7 pixels"),
        (_change("annotations", segmentation={"size": [4, 5], "counts": [-5, 25]}), "cannot be read"),
        (_change("annotations", segmentation={"size": [4, 5], "counts": "PPPPPPPPPP"}), "cannot be read"),
        (_change("annotations", segmentation={"size": [4, 5], "counts": "é"}), "cannot be read"),
        (_change("annotations", segmentation={"size": [4, 5]}), "cannot be read"),
        (lambda content: content["annotations"].append(3), "3 in place of an object"),
    ],
)  # fmt: skip
def test_faults_are_one_line(tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    content = build([SQUARE])
    change(content)
    with pytest.raises(InputError, match=message) as error:
        convert(write(tmp_path, content), tmp_path / "out", images=tmp_path / "images")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out" / "dataset.yaml").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "JSON that cannot be read"),
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ('{"a": 1}', "no format.*Tried: .*coco.*labelme"),
        ("[]", "no format"),
        ('{"_via_img_metadata": {}}', "VGG.*COCO"),
        ('[{"image_id": 1, "category_id": 2}]', "COCO results"),
        ('[{"id": 1, "image": "a.png"}]', "JSON-MIN"),
    ],
)
def test_other_json_files(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "instances.json").write_text(text)
    with pytest.raises(InputError, match=message):
        convert(tmp_path / "instances.json", tmp_path / "out")


def test_folders_with_one_annotation_file_or_several(tmp_path: Path) -> None:
    write(tmp_path / "set", build([SQUARE]))
    convert(tmp_path / "set", tmp_path / "out")
    assert labels(tmp_path / "out") == SQUARE_LABELS
    write_json(tmp_path / "set" / "second.json", json.loads((tmp_path / "set" / "instances.json").read_text()))
    with pytest.raises(InputError, match=r"instances\.json, second\.json"):
        convert(tmp_path / "set", tmp_path / "out")
