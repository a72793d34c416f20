"""Legends, captions and paragraphs."""

from __future__ import annotations

import numpy as np
import pytest

from cliptrase_d2.visualization import legend as module
from cliptrase_d2.visualization.fonts import measure_width
from cliptrase_d2.visualization.legend import LegendEntry, add_caption, add_legend, count_rows, legend, paragraphs
from cliptrase_d2.visualization.picture import draw_labels

RED, BLUE = np.array([255, 0, 0], np.uint8), np.array([0, 0, 255], np.uint8)


def find_rows(picture: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """The rows in which a colour occurs."""
    return np.flatnonzero((picture == colour).all(2).any(1))


def test_legend_has_the_given_height_and_order_and_fits_its_names() -> None:
    drawn = legend([LegendEntry("sky", 0.75, RED), LegendEntry("tree", 0.25, BLUE)], 120)
    assert (drawn.shape[0], drawn.dtype) == (120, np.uint8)
    assert find_rows(drawn, RED).max() < find_rows(drawn, BLUE).min()
    assert legend([LegendEntry("traffic light", 1.0, RED)], 120).shape[1] > drawn.shape[1]


def test_with_legend_keeps_the_picture() -> None:
    picture = np.full((90, 50, 3), 7, np.uint8)
    joined = add_legend(picture, [LegendEntry("sky", 1.0, RED)])
    np.testing.assert_array_equal(joined[:, :50], picture)
    assert joined.shape[1] > 50


def test_a_caption_is_above_the_picture_and_never_cut_off() -> None:
    narrow, wide = (add_caption(np.zeros((90, width, 3), np.uint8), "ground truth") for width in (20, 300))
    top = len(narrow) - 90
    assert (narrow[top:, :20] == 0).all()
    assert (narrow[top:, 20:] == 255).all()
    assert (wide[:top] < 128).any()  # text
    np.testing.assert_array_equal(narrow[:top], wide[:top, : narrow.shape[1]])
    assert (narrow[:top, -1] == 255).all()  # the text ends before the border


def test_paragraphs_are_broken_between_words() -> None:
    # The font size is 12, lines are 17 pixels high, and the margins are half a character: two lines, a gap, one line.
    width = measure_width("one two", 12) + 12
    picture = paragraphs(["one two three", "four"], (20, width))
    assert picture.shape == (4 * 17, width, 3)
    assert [bool((line < 128).any()) for line in picture.reshape(4, 17, width, 3)] == [True, True, False, True]
    assert (picture[:, :5] == 255).all()
    # A word that does not fit widens the picture.
    assert paragraphs(["onetwoonetwo"], (20, 30)).shape[1] == measure_width("onetwoonetwo", 12) + 12


@pytest.mark.parametrize("texts", [[], ["short"]])
def test_short_paragraphs_have_the_size_of_the_picture(texts: list[str]) -> None:
    assert paragraphs(texts, (200, 150)).shape == (200, 150, 3)


@pytest.mark.parametrize(("count", "coloured"), [(4, 4), (10, 3)])
def test_classes_that_do_not_fit_share_the_last_line(count: int, coloured: int) -> None:
    colours = np.array([[0, 0, 200 + index] for index in range(count)], np.uint8)
    drawn = legend([LegendEntry(str(index), 0.1, colour) for index, colour in enumerate(colours)], 12 + 4 * 18)
    assert [len(find_rows(drawn, colour)) > 0 for colour in colours] == [index < coloured for index in range(count)]


def test_847_classes_beside_a_tiny_picture() -> None:
    entries = [LegendEntry(f"class {index}", 1 / 847, RED) for index in range(847)]
    assert legend(entries, 10).shape[0] == 10
    assert (legend([], 50) == 255).all()


@pytest.mark.parametrize(
    ("share", "text"), [(1.0, "100.0 %"), (0.123, "12.3 %"), (0.0005, "0.1 %"), (0.0004, "< 0.1 %")]
)
def test_small_shares_are_not_rounded_to_zero(share: float, text: str) -> None:
    assert module._percent(share) == text


def test_pixels_without_a_tint_have_a_crossed_box() -> None:
    plain = legend([LegendEntry("unknown", 0.5, BLUE)], 120)
    crossed = legend([LegendEntry("unknown", 0.5, None)], 120)
    assert plain.shape == crossed.shape
    box = (plain == BLUE).all(2)
    assert 0 < (crossed[box] != 255).any(1).mean() < 0.3  # a thin line on white


@pytest.mark.parametrize("count", [3, 99])
def test_legends_of_frames_have_one_width(count: int) -> None:
    classes = [f"class {index}" for index in range(count)]
    colours = np.zeros((count, 3), np.uint8)
    colours[:2] = RED, BLUE
    image = np.zeros((200, 100, 3), np.uint8)
    labels = np.array([[0, 1], [2, -1]]), np.ones((2, 2), int)
    frames = [np.kron(grid, np.ones((100, 50), int)) for grid in labels]
    legends = [draw_labels(image, frame, classes, colours, fixed_legend=True, names=False)[:, 100:] for frame in frames]
    assert legends[0].shape == legends[1].shape
    if count < count_rows(200):  # rows stay in place, also those of classes that do not occur
        for colour in (RED, BLUE):
            assert len(find_rows(legends[0], colour))
            np.testing.assert_array_equal(find_rows(legends[0], colour), find_rows(legends[1], colour))
