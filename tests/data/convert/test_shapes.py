"""Run lengths against pycocotools, and the recognition of contours."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco

from cliptrase_d2.data.convert.shapes import are_contours, decompress_counts, encode_runs


@pytest.mark.parametrize("seed", range(20))
def test_compressed_run_lengths_equal_those_of_pycocotools(seed: int) -> None:
    random = np.random.default_rng(seed)
    size = tuple(random.integers(1, 400, 2).tolist())
    mask = np.asfortranarray(random.random(size) < random.choice([0.001, 0.1, 0.5, 1.0]), dtype=np.uint8)
    if seed % 2:
        mask[: size[0] // 2] = 1
    text = coco.encode(mask)["counts"].decode()
    assert np.array_equal(coco.decode(encode_runs({"size": list(size), "counts": text}, size, "a")), mask)


@pytest.mark.parametrize("text", ["P", "o", "~", "oooooooooo0", "\ud800", "1 2"])
def test_invalid_strings_are_rejected(text: str) -> None:
    assert decompress_counts(text) is None


def test_empty_string_has_no_runs() -> None:
    assert decompress_counts("") == []


def _outline(count: int) -> list[int]:
    """Return an octagon with steps of one pixel."""
    steps = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]
    points, place = [], np.array([count, 0])
    for step in steps:
        for _ in range(count):
            points += place.tolist()
            place = place + step
    return points


@pytest.mark.parametrize(
    ("polygon", "expected"),
    [
        (_outline(20), True),
        (_outline(5), False),  # too few points
        ([0, 0, 9, 0, 9, 9, 0, 9] * 40, False),  # no diagonal step: corners of pixels
        ([value + 0.5 for value in _outline(20)], False),
        ([*_outline(20), 20, 3], False),  # a step in another direction
        ([*_outline(20), "a"], False),
        ([_outline(20), 3], False),
    ],
)
def test_recognition_of_contours(polygon: list[int], expected: bool) -> None:
    assert are_contours([(polygon, (100, 100))]) is expected


def test_a_contour_does_not_reach_the_size_of_its_picture() -> None:
    assert not are_contours([(_outline(20), (60, 100))])
    assert are_contours([(_outline(20), None)])
