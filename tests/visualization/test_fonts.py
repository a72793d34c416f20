"""Fonts, sizes and shortened names."""

from __future__ import annotations

import logging

import pytest
from PIL import ImageFont

from cliptrase_d2.visualization import fonts as module
from cliptrase_d2.visualization.fonts import choose_font_size, measure_width, shorten


@pytest.mark.parametrize(("height", "size"), [(10, 12), (320, 14), (1100, 50), (5000, 64)])
def test_the_font_grows_with_the_picture(height: int, size: int) -> None:
    assert choose_font_size(height) == size


def test_long_names_are_shortened() -> None:
    assert shorten("x" * 100) == "x" * 35 + "…"
    assert shorten("x" * 36) == "x" * 36


def test_missing_glyphs_are_detected_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    font = ImageFont.load_default(12)
    assert module._covers(font, "traffic light, 50 %")
    assert not module._covers(font, "\ue000")
    name = "\ue123"  # private use area: no font has it
    with caplog.at_level(logging.WARNING):
        assert measure_width(name, 12) > 0
    assert repr(name) in caplog.text
