"""Label Studio's JSON and PNG exports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cliptrase_d2.data.convert.label_studio import decode_runs
from cliptrase_d2.utils.errors import InputError
from tests.data.convert.sets import convert, labels, write_json, write_picture

SQUARE = [[255] * 5, [255, 0, 0, 255, 255], [255, 0, 0, 255, 255], [255] * 5]
MASK = np.array(SQUARE) == 0


def pack(values: list[int]) -> list[int]:
    """Encode values as rle-pack does, with a run for every value and lengths of 3, 4, 8 and 16 bits."""
    bits = f"{len(values):032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    place = 0
    while place < len(values):
        end = place
        while end < len(values) and values[end] == values[place]:
            end += 1
        bits += f"1{3:02b}{end - place - 1:016b}{values[place]:08b}"
        place = end
    bits += "0" * (-len(bits) % 8)
    return [int(bits[start : start + 8], 2) for start in range(0, len(bits), 8)]


def pack_mask(mask: np.ndarray) -> list[int]:
    return pack(np.repeat((mask * 255).ravel(), 4).tolist())


def result(kind: str, label: str = "cat", **value: Any) -> dict[str, Any]:
    size = {"original_width": 5, "original_height": 4, "image_rotation": 0}
    return {"type": kind, "value": {kind: [label], **value}, **size}


POLYGON = result("polygonlabels", points=[[20, 25], [60, 25], [60, 75], [20, 75]])
BRUSH = result("brushlabels", format="rle", rle=pack_mask(MASK))
BOX = result("rectanglelabels", x=20, y=25, width=40, height=50, rotation=0)


def task(*results: Any, image: str = "/data/upload/1/0a1b2c3d-a.png", **values: Any) -> dict[str, Any]:
    return {"id": 1, "data": {"image": image}, "annotations": [{"id": 2, "result": list(results)}], **values}


def write(folder: Path, *tasks: Any) -> Path:
    write_picture(folder / "images" / "a.png", (4, 5))
    return write_json(folder / "project.json", list(tasks))


@pytest.mark.parametrize("region", [POLYGON, BRUSH, BOX], ids=["polygon", "brush", "rectangle"])
def test_every_kind_of_region(tmp_path: Path, region: Any) -> None:
    source, _ = convert(write(tmp_path, task(region)), tmp_path / "out")
    assert source.format == "label-studio"
    assert labels(tmp_path / "out") == SQUARE


def test_rectangle_is_rotated_clockwise_about_its_first_corner(tmp_path: Path) -> None:
    # From (3, 1) to the right is now down: columns 1 and 2, rows 1 and 2.
    turned = result("rectanglelabels", x=60, y=25, width=40, height=50, rotation=90)
    convert(write(tmp_path, task(turned)), tmp_path / "out")
    assert labels(tmp_path / "out") == SQUARE


def test_literal_runs_and_short_lengths() -> None:
    # 4 values: literal 1, 2, 3, 4 with a length of 2 bits.
    bits = f"{4:032b}{7:05b}" + "0001" * 4 + "0" + "00" + "11" + "".join(f"{value:08b}" for value in (1, 2, 3, 4))
    bits += "0" * (-len(bits) % 8)
    data = [int(bits[start : start + 8], 2) for start in range(0, len(bits), 8)]
    decoded = decode_runs(data, 4)
    assert decoded is not None
    assert decoded.tolist() == [1, 2, 3, 4]
    assert decode_runs(data, 5) is None
    assert decode_runs(data[:-2], 4) is None


@pytest.mark.parametrize("data", [[], [1], [256] * 20, ["a"] * 20, [0.5] * 20, [True] * 20])
def test_invalid_runs(data: list[Any]) -> None:
    assert decode_runs(data, 4) is None


@pytest.mark.parametrize("seed", range(3))
def test_runs_of_random_masks(seed: int) -> None:
    values = np.repeat(np.random.default_rng(seed).integers(0, 256, 50), 7).tolist()
    decoded = decode_runs(pack(values), len(values))
    assert decoded is not None
    assert decoded.tolist() == values


@pytest.mark.parametrize(
    "image",
    [
        "a.png",
        "/data/local-files/?d=set/a.png",
        "s3://bucket/set/a.png",
        "https://host/x/a.png?token=1",
        "/upload/a.png",
    ],
)
def test_addresses_of_pictures(tmp_path: Path, image: str) -> None:
    convert(write(tmp_path, task(POLYGON, image=image)), tmp_path / "out")
    assert labels(tmp_path / "out") == SQUARE


def test_latest_annotation_is_used_and_cancelled_ones_are_not(tmp_path: Path) -> None:
    annotations = [
        {"id": 9, "result": [POLYGON]},
        {"id": 3, "result": [result("polygonlabels", points=[[0, 0], [100, 0], [100, 100]])]},
        {"id": 11, "was_cancelled": True, "result": []},
    ]
    _, conversion = convert(write(tmp_path, task(annotations=annotations)), tmp_path / "out")
    assert labels(tmp_path / "out") == SQUARE
    assert list(conversion.findings.notes.counts.values()) == [1]


def test_other_results_are_skipped_and_counted(tmp_path: Path) -> None:
    others = [result("ellipselabels", x=1, y=1), {"type": "choices", "value": {"choices": ["x"]}}, {"type": "relation"}]
    _, conversion = convert(write(tmp_path, task(POLYGON, *others)), tmp_path / "out")
    assert labels(tmp_path / "out") == SQUARE
    assert len(conversion.findings.notes.counts) == 3


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (task({**POLYGON, "image_rotation": 90}), "rotated by 90"),
        (task({**POLYGON, "original_width": 6}), "6 x 4 pixels.*5 x 4"),
        (task(result("brushlabels", format="rle", rle=pack_mask(MASK[:3]))), "run lengths"),
        (task(result("brushlabels", format="png", rle=pack_mask(MASK))), "run lengths"),
        (task(result("brushlabels", format="rle")), "no 'rle'"),
        (task(result("polygonlabels", points=[[1, 2], [3]])), "not pairs"),
        (task(result("polygonlabels", points=[[1, 2], [3, float("nan")], [4, 4]])), "not a number"),
        (task(result("polygonlabels", points=[[1, 2], [3, 10**400], [4, 4]])), "not a number"),
        (task(result("polygonlabels")), "points None"),
        (task(result("rectanglelabels", x=1, y=1, width="2", height=2)), "width '2'"),
        (task({**POLYGON, "value": {"polygonlabels": ["a", "b"], "points": []}}), "2 labels"),
        (task(POLYGON, data={"text": "hello"}), "0 pictures"),
        (task(POLYGON, data={"a": "a.png", "b": "b.png"}), "2 pictures"),
        (task(POLYGON, image="../../etc/a.png"), "not a path below"),
        (task(POLYGON, image="b.png"), r"b\.png"),
        (task(POLYGON, annotations=7), "annotations 7"),
    ],
)
def test_faults_are_one_line(tmp_path: Path, broken: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        convert(write(tmp_path, broken), tmp_path / "out")


def write_mask(folder: Path, name: str, mask: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray((mask * 255).astype(np.uint8)).save(folder / f"task-1-annotation-{name}.png")


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """Masks of two labels of task 1; the larger one is below."""
    write_mask(tmp_path / "masks", "2-by-1-tag-soccer ball-0", MASK)
    write_mask(tmp_path / "masks", "2-by-1-tag-water-0", np.ones((4, 5), bool))
    write_picture(tmp_path / "images" / "a.png", (4, 5))
    return tmp_path / "masks"


EXPECTED = np.where(MASK, 0, 1).tolist()


def test_masks_with_the_json_export_beside_them(masks: Path, tmp_path: Path) -> None:
    write_json(masks / "project.json", [task()])
    source, conversion = convert(masks, tmp_path / "out")
    assert source.format == "label-studio-masks"
    assert conversion.spec.classes == ("soccer ball", "water")
    assert labels(tmp_path / "out") == EXPECTED
    assert conversion.findings.pairs == {(1, 0): 4}


def test_masks_with_a_list_of_tasks(masks: Path, tmp_path: Path) -> None:
    (tmp_path / "tasks.txt").write_text("1 a.png\n2 b.png\n")
    convert(masks, tmp_path / "out", tasks=tmp_path / "tasks.txt")
    assert labels(tmp_path / "out") == EXPECTED
    (tmp_path / "tasks.txt").write_text("a.png\n")
    with pytest.raises(InputError, match=r"tasks\.txt.*'a\.png'"):
        convert(masks, tmp_path / "out", tasks=tmp_path / "tasks.txt")


@pytest.mark.parametrize("name", ["1", "task-1"])
def test_masks_with_pictures_named_after_their_tasks(masks: Path, tmp_path: Path, name: str) -> None:
    write_picture(tmp_path / "photos" / f"{name}.png", (4, 5))
    convert(masks, tmp_path / "out", images=tmp_path / "photos")
    assert labels(tmp_path / "out", name) == EXPECTED


def test_masks_without_names_of_pictures(masks: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"picture of task 1.*--tasks"):
        convert(masks, tmp_path / "out")


def test_latest_masks_of_a_task(masks: Path, tmp_path: Path) -> None:
    write_json(masks / "project.json", [task()])
    write_mask(masks, "10-by-2-tag-water-0", MASK)
    convert(masks, tmp_path / "out")
    assert labels(tmp_path / "out") == np.where(MASK, 0, 255).tolist()


def test_labels_with_hyphens_need_the_classes(masks: Path, tmp_path: Path) -> None:
    write_json(masks / "project.json", [task()])
    write_mask(masks, "2-by-1-my-tag-red-book-0", np.zeros((4, 5), bool))
    convert(masks, tmp_path / "out", classes=("soccer ball", "water", "red-book"))
    assert labels(tmp_path / "out") == EXPECTED
    with pytest.raises(InputError, match="'tag-red-book'"):
        convert(masks, tmp_path / "out", classes=("soccer ball", "water"))


def test_mask_of_another_size(masks: Path, tmp_path: Path) -> None:
    write_json(masks / "project.json", [task()])
    write_mask(masks, "2-by-1-tag-water-1", np.ones((3, 5), bool))
    with pytest.raises(InputError, match=r"water-1\.png: 5 x 3 pixels, but .* 5 x 4"):
        convert(masks, tmp_path / "out")
