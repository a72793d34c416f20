"""Heat maps, clusters, marked and outlined patches, and grids of pictures."""

from __future__ import annotations

import numpy as np
import pytest

from cliptrase_d2.visualization.colours import palette
from cliptrase_d2.visualization.overlay import overlay
from cliptrase_d2.visualization.panels import (
    arrange_rows,
    draw_clusters,
    draw_heat_map,
    fit_long_side,
    mark_patch,
    outline_patches,
    place_side_by_side,
)

GREY = np.full((40, 40, 3), 90, np.uint8)
WHITE, BLACK, MAGENTA = [255, 255, 255], [0, 0, 0], [255, 0, 255]


def test_heat_map_runs_from_blue_to_red_between_the_extremes() -> None:
    values = np.array([[0.1, 0.1], [0.1, 0.9]])
    picture = draw_heat_map(GREY, values).astype(int)
    assert picture.shape == GREY.shape
    low, high = picture[0, 0], picture[-1, -1]
    assert low[2] > low[0]
    assert high[0] > high[2]
    np.testing.assert_array_equal(draw_heat_map(GREY, 5 * values - 7), picture)
    assert (draw_heat_map(GREY, np.full((2, 2), 3.0)) == low).all()  # equal values


def test_heat_map_ignores_the_colours_of_the_image() -> None:
    red = np.zeros((40, 40, 3), np.uint8)
    red[..., 0] = 200
    brightness = round(0.299 * 200)  # of red in grey
    np.testing.assert_array_equal(
        draw_heat_map(red, np.eye(2)), draw_heat_map(np.full_like(red, brightness), np.eye(2))
    )


def test_clusters_have_colours_and_noise_is_dark() -> None:
    picture = draw_clusters(GREY, np.array([[0, 1], [1, -1]]))
    for place, colour in (((5, 5), palette(2)[0]), ((5, 35), palette(2)[1]), ((35, 5), palette(2)[1])):
        np.testing.assert_array_equal(picture[place], overlay(GREY, np.zeros((40, 40), int), colour[None])[0, 0])
    dark = overlay(GREY, np.zeros((40, 40), int), np.zeros((1, 3)))[0, 0]  # black over grey
    np.testing.assert_array_equal(picture[35, 35], dark)
    assert (draw_clusters(GREY, np.full((2, 2), -1)) == dark).all()


def test_the_marked_patch_is_framed_and_unchanged() -> None:
    # In a grid of 2 rows and 4 columns, patch (1, 2) covers rows 20 to 39 and columns 20 to 29.
    picture = mark_patch(GREY, (2, 4), (1, 2))
    assert (picture[20:40, 20:30] == 90).all()
    for place in ((19, 25), (30, 19), (30, 30)):
        assert picture[place].tolist() == WHITE
    for place in ((18, 25), (30, 18), (30, 31)):
        assert picture[place].tolist() == BLACK
    assert picture[17, 25].tolist() == [90, 90, 90]
    assert (GREY == 90).all()


@pytest.mark.parametrize("patch", [(0, 0), (0, 3), (1, 0), (1, 3)])
def test_patches_at_the_border_can_be_marked(patch: tuple[int, int]) -> None:
    picture = mark_patch(GREY, (2, 4), patch)
    assert picture.shape == GREY.shape
    assert (picture == 90).all(2).sum() < 40 * 40


def test_adjacent_patches_share_one_inner_outline() -> None:
    # Patches of 10x10 pixels: two at the left border, and a single one in the corner.
    patches = np.zeros((4, 4), bool)
    patches[:2, 0] = patches[3, 3] = True
    picture = outline_patches(GREY, patches)
    changed = (picture != 90).any(2)
    assert np.argwhere(changed[:, :20]).max(0).tolist() == [19, 9]
    assert np.argwhere(changed[:, 20:]).min(0).tolist() == [30, 10]
    for place in ((0, 0), (1, 5), (10, 0), (10, 9), (19, 5), (35, 30)):
        assert picture[place].tolist() == MAGENTA
    assert picture[10, 7].tolist() == BLACK  # a thin line inside the magenta
    for place in ((10, 5), (35, 35)):  # no line between the two patches, and unchanged centres
        assert picture[place].tolist() == [90, 90, 90]
    assert (GREY == 90).all()
    np.testing.assert_array_equal(outline_patches(GREY, np.zeros((3, 5), bool)), GREY)


def test_pictures_in_a_row() -> None:
    other = np.zeros((40, 7, 3), np.uint8)
    row = place_side_by_side([GREY, other], gap=3)
    np.testing.assert_array_equal(row, np.concatenate([GREY, np.full((40, 3, 3), 255, np.uint8), other], axis=1))


def test_pictures_of_different_sizes_in_rows_and_columns() -> None:
    wide, high = np.zeros((2, 9, 3), np.uint8), np.full((7, 4, 3), 50, np.uint8)
    table = arrange_rows([[wide, high], [high, wide], [high]], gap=3)
    assert table.shape == (7 + 3 + 7 + 3 + 7, 9 + 3 + 9, 3)
    for (top, left), picture in {(0, 0): wide, (0, 12): high, (10, 0): high, (10, 12): wide, (20, 0): high}.items():
        np.testing.assert_array_equal(table[top : top + len(picture), left : left + picture.shape[1]], picture)
    assert (table < 255).all(2).sum() == 2 * wide[..., 0].size + 3 * high[..., 0].size


@pytest.mark.parametrize(("size", "expected"), [((100, 50), (64, 32)), ((10, 20), (32, 64)), ((1, 1000), (1, 64))])
def test_the_long_side_fits(size: tuple[int, int], expected: tuple[int, int]) -> None:
    np.testing.assert_array_equal(fit_long_side(np.full((*size, 3), 90, np.uint8), 64), np.full((*expected, 3), 90))
