"""Names written on regions."""

from __future__ import annotations

import numpy as np
import pytest

from cliptrase_d2.visualization.fonts import measure_width
from cliptrase_d2.visualization.names import draw_names, place_names

CLASSES = ("sky", "tree", "traffic light")


def make_map(height: int = 240, width: int = 320) -> np.ndarray:
    """Sky above trees, the upper third of the map."""
    labels = np.zeros((height, width), np.int64)
    labels[height // 3 :] = 1
    return labels


def test_names_are_in_the_middle_of_their_regions() -> None:
    sky, tree = place_names(make_map(), CLASSES)
    assert (sky.text, tree.text) == ("sky", "tree")
    assert sky.centre[1] == pytest.approx(40, abs=2)
    assert tree.centre[1] == pytest.approx(160, abs=2)


@pytest.mark.parametrize("scale", [1, 4, 12])
def test_the_box_of_a_name_is_inside_its_region(scale: int) -> None:
    rows, columns = np.mgrid[: 100 * scale, : 200 * scale]
    labels = np.where((rows - 50 * scale) ** 2 + (columns - 90 * scale) ** 2 < (40 * scale) ** 2, 1, 0)  # a disc
    placed = place_names(labels, CLASSES)
    assert [name.text for name in placed] == ["sky", "tree"]
    for index, text, size, (x, y) in placed:
        half = measure_width(text, size) / 2
        box = labels[int(y - size / 2) : int(y + size / 2) + 1, int(x - half) : int(x + half) + 1]
        assert (box == index).all()


def test_every_large_region_has_a_name_and_small_ones_have_none() -> None:
    labels = make_map()
    labels[100:200, 150:170] = 0  # divides nothing: trees remain below
    labels[80:, 150:170] = 0
    labels[5:15, 5:15] = 2  # less than 1.5 % of the pixels
    assert sorted(name.text for name in place_names(labels, CLASSES)) == ["sky", "tree", "tree"]


def test_a_name_that_does_not_fit_is_left_out() -> None:
    labels = make_map()
    labels[100:, 150:190] = 2  # 40 pixels wide, 12 % of the pixels
    assert measure_width("traffic light", 12) > 40
    assert "traffic light" not in [name.text for name in place_names(labels, CLASSES)]


@pytest.mark.parametrize("shape", [(1, 1), (3, 500), (500, 3), (16, 16)])
def test_tiny_maps_have_no_names(shape: tuple[int, int]) -> None:
    assert place_names(np.zeros(shape, np.int64), ["a long name of a class"]) == []


def test_unknown_pixels_have_no_name() -> None:
    assert place_names(np.full((200, 200), -1), CLASSES) == []


def test_text_is_white_with_a_dark_halo_and_changes_nothing_else() -> None:
    picture = np.full((240, 320, 3), 90, np.uint8)
    drawn = draw_names(picture, make_map(), CLASSES)
    assert (picture == 90).all()
    changed = (drawn != 90).any(2)
    assert 0 < changed.mean() < 0.03
    assert drawn.max() == 255
    assert drawn.min() < 40
    np.testing.assert_array_equal(draw_names(picture, np.full((240, 320), -1), CLASSES), picture)
