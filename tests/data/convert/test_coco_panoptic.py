"""COCO's panoptic labels: ids in colours, void, crowds and faults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cliptrase_d2.utils.errors import InputError
from tests.data.convert.sets import convert, labels, write_json, write_picture

IDS = [[0, 1, 256], [70000, 70000, 1]]  # 70000 = 112 + 256 · 17 + 65536 · 1
CLASSES = [[255, 0, 1], [1, 1, 0]]


def build(**crowd: Any) -> dict[str, Any]:
    segments = [{"id": 1, "category_id": 10}, {"id": 256, "category_id": 20, **crowd}, {"id": 70000, "category_id": 20}]
    return {
        "images": [{"id": 5, "file_name": "a.jpg", "height": 2, "width": 3}],
        "categories": [{"id": 20, "name": "sky", "isthing": 0}, {"id": 10, "name": "cat", "isthing": 1}],
        "annotations": [{"image_id": 5, "file_name": "a.png", "segments_info": segments}],
    }


def write(folder: Path, content: Any, ids: Any = IDS, mode: str = "RGB") -> Path:
    write_picture(folder / "images" / "a.jpg", (2, 3))
    values = np.array(ids)
    colours = np.stack([values % 256, values // 256 % 256, values // 65536], axis=2).astype(np.uint8)
    (folder / "panoptic_val").mkdir(exist_ok=True)
    Image.fromarray(colours).convert(mode).save(folder / "panoptic_val" / "a.png")
    return write_json(folder / "panoptic_val.json", content)


def test_ids_become_classes_and_void_is_unlabelled(tmp_path: Path) -> None:
    path = write(tmp_path, build())
    source, conversion = convert(path, tmp_path / "out")
    assert source.format == "coco-panoptic"
    assert conversion.spec.classes == ("cat", "sky")
    assert labels(tmp_path / "out") == CLASSES
    assert (conversion.findings.unlabelled, conversion.findings.overlapped) == (1, 0)
    convert(path, tmp_path / "background", background="other")
    assert labels(tmp_path / "background")[0] == [2, 0, 1]


def test_pictures_and_segments_of_the_same_names(tmp_path: Path) -> None:
    content = build()
    content["images"][0]["file_name"] = "a.png"
    write(tmp_path, content)
    write_picture(tmp_path / "images" / "a.png", (2, 3))
    (tmp_path / "images" / "a.jpg").unlink()
    (tmp_path / "panoptic_val").rename(tmp_path / "segments")
    convert(tmp_path / "panoptic_val.json", tmp_path / "out")
    assert labels(tmp_path / "out") == CLASSES


@pytest.mark.parametrize(("keep", "value"), [(False, 255), (True, 1)])
def test_crowds_are_ignored(tmp_path: Path, keep: bool, value: int) -> None:
    convert(write(tmp_path, build(iscrowd=1)), tmp_path / "out", keep_crowds=keep)
    assert labels(tmp_path / "out")[0] == [255, 0, value]


def test_segment_without_pixels_is_noted(tmp_path: Path) -> None:
    _, conversion = convert(write(tmp_path, build(), [[0, 1, 1], [1, 1, 1]]), tmp_path / "out")
    assert list(conversion.findings.notes.counts.values()) == [2]


@pytest.mark.parametrize(
    ("ids", "mode", "message"),
    [
        ([[0, 1, 2], [1, 1, 1]], "RGB", r"a\.png: a segment of the id 2"),
        ([[0, 1], [1, 1]], "RGB", "2 x 2 pixels, but its picture has 3 x 2"),
        (IDS, "L", "mode L"),
    ],
)
def test_faults_of_the_png_file(tmp_path: Path, ids: Any, mode: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        convert(write(tmp_path, build(), ids, mode), tmp_path / "out")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_id": 6}, "no image"),
        ({"file_name": "b.png"}, r"0 folders beside it with 'b\.png'"),
        ({"file_name": "../panoptic_val/a.png"}, "not a path below"),
        ({"segments_info": [{"id": 1, "category_id": 10}] * 2}, "two segments with the id 1"),
        ({"segments_info": [{"id": 1, "category_id": 11}]}, "category_id 11"),
        ({"segments_info": [{"category_id": 10}]}, "no 'id'"),
    ],
)
def test_faults_of_the_json_file(tmp_path: Path, values: Any, message: str) -> None:
    content = build()
    content["annotations"][0].update(values)
    with pytest.raises(InputError, match=message):
        convert(write(tmp_path, content), tmp_path / "out")
