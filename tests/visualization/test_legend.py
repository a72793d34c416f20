"""The legend beside a picture."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from PIL import ImageFont

from cliptrase_d2.visualization.legend import (
    LegendEntry,
    _broken,
    _covers,
    _fit,
    _percent,
    _shortened,
    _width,
    legend,
    paragraphs,
    with_caption,
    with_legend,
)

RED, BLUE = np.array([255, 0, 0], np.uint8), np.array([0, 0, 255], np.uint8)


def _has(picture: np.ndarray, colour: np.ndarray) -> bool:
    return bool((picture == colour).all(2).any())


def test_legend_has_the_height_asked_for_and_the_colours() -> None:
    drawn = legend([LegendEntry("sky", 0.75, RED), LegendEntry("tree", 0.25, BLUE)], 120)
    assert drawn.shape[0] == 120
    assert drawn.dtype == np.uint8
    assert _has(drawn, RED)
    assert _has(drawn, BLUE)


def test_entries_stand_in_their_order() -> None:
    drawn = legend([LegendEntry("sky", 0.75, RED), LegendEntry("tree", 0.25, BLUE)], 120)
    red, blue = ((drawn == colour).all(2).any(1).argmax() for colour in (RED, BLUE))
    assert red < blue


def test_a_longer_name_makes_the_legend_wider() -> None:
    short, long = (legend([LegendEntry(name, 1.0, RED)], 100).shape[1] for name in ("sky", "traffic light"))
    assert long > short


def test_with_legend_keeps_the_picture() -> None:
    picture = np.full((90, 50, 3), 7, np.uint8)
    joined = with_legend(picture, [LegendEntry("sky", 1.0, RED)])
    np.testing.assert_array_equal(joined[:, :50], picture)
    assert joined.shape[1] > 50


def test_a_caption_stands_above_the_picture() -> None:
    picture = np.full((90, 200, 3), 7, np.uint8)
    captioned = with_caption(picture, "ground truth")
    np.testing.assert_array_equal(captioned[-90:], picture)
    assert (captioned[:-90] < 128).any()  # letters


def test_a_caption_is_never_cut_off() -> None:
    narrow, wide = (with_caption(np.zeros((90, width, 3), np.uint8), "ground truth") for width in (20, 300))
    below = len(narrow) - 90
    assert (narrow[below:, :20] == 0).all()
    assert (narrow[below:, 20:] == 255).all()
    np.testing.assert_array_equal(narrow[:below], wide[:below, : narrow.shape[1]])
    assert (narrow[:, -1] == 255)[:below].all()  # no letter touches the edge


def test_paragraphs_break_between_words() -> None:
    # Letters of 12 pixels, lines of 17, half a letter of margin on either side: two lines, an empty one, one more.
    width = _width("one two", 12) + 12
    broken = paragraphs(["one two three", "four"], (20, width))
    assert broken.shape == (4 * 17, width, 3)
    assert [bool((broken[17 * line : 17 * line + 17] < 128).any()) for line in range(4)] == [True, True, False, True]
    assert (broken[:, :5] == 255).all()


def test_a_short_text_leaves_the_picture_it_goes_with_its_size() -> None:
    assert paragraphs(["short"], (200, 150)).shape == (200, 150, 3)
    assert paragraphs([], (200, 150)).shape == (200, 150, 3)


def test_lines_have_as_many_words_as_fit() -> None:
    width = _width("one two", 12)
    assert _broken("one two one two one", width, 12) == ["one two", "one two", "one"]
    assert _broken("one two", width - 1, 12) == ["one", "two"]
    assert _broken("onetwoonetwo one", width, 12) == ["onetwoonetwo", "one"]


def test_a_word_that_is_wider_than_its_paragraph_widens_it() -> None:
    assert paragraphs(["onetwoonetwo"], (20, 30)).shape[1] == _width("onetwoonetwo", 12) + 12


def test_entries_without_a_place_share_the_last_line() -> None:
    entries = [LegendEntry(str(index), 0.1, RED) for index in range(10)]
    shown, rest = _fit(entries, 4)
    assert [entry.name for entry in shown] == ["0", "1", "2"]
    assert len(rest) == 7


def test_entries_that_just_fit_all_have_a_line() -> None:
    entries = [LegendEntry(str(index), 0.25, RED) for index in range(4)]
    assert _fit(entries, 4) == (entries, [])


def test_847_classes_on_a_tiny_picture_can_be_drawn() -> None:
    drawn = legend([LegendEntry(f"class {index}", 1 / 847, RED) for index in range(847)], 10)
    assert drawn.shape[0] == 10


def test_no_entry_gives_an_empty_legend() -> None:
    assert (legend([], 50) == 255).all()


@pytest.mark.parametrize(
    ("share", "text"), [(1.0, "100.0 %"), (0.123, "12.3 %"), (0.0005, "0.1 %"), (0.0004, "< 0.1 %")]
)
def test_a_share_that_occurs_is_never_shown_as_nothing(share: float, text: str) -> None:
    assert _percent(share) == text


def test_a_very_long_name_is_shortened() -> None:
    assert _shortened("x" * 100) == "x" * 35 + "…"
    assert _shortened("x" * 36) == "x" * 36


def test_the_font_of_pillow_lacks_what_it_draws_as_a_box() -> None:
    font = ImageFont.load_default(12)
    assert _covers(font, "traffic light, 50 %")
    assert not _covers(font, "\ue000")


def test_a_name_that_no_font_can_draw_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    name = "\ue123"  # of the private use area: no font has it
    with caplog.at_level(logging.WARNING):
        drawn = legend([LegendEntry(name, 1.0, RED)], 50)
    assert repr(name) in caplog.text
    assert _has(drawn, RED)
