"""Fonts of text in pictures: a size for the picture, and a font that has every character."""

from __future__ import annotations

import logging
from functools import lru_cache

import numpy as np
from PIL import ImageFont

logger = logging.getLogger(__name__)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# Fallbacks for text outside the Latin characters of Pillow's default font.
_SYSTEM_FONTS = (
    *("DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "NotoSans-Regular.ttf"),
    *("Arial Unicode.ttf", "msyh.ttc", "arial.ttf"),
)
_UNKNOWN = "\uffff"  # not a character: every font draws its placeholder for missing glyphs
_MIN_FONT_SIZE, _MAX_FONT_SIZE = 12, 64
_ROWS_PER_HEIGHT = 22  # the font size is the height of the picture divided by this
_MAX_NAME_LENGTH = 36


def choose_font_size(height: int) -> int:
    """Return the font size in pixels for a picture of a height."""
    return min(_MAX_FONT_SIZE, max(_MIN_FONT_SIZE, height // _ROWS_PER_HEIGHT))


def shorten(name: str) -> str:
    """Return a class name of at most 36 characters."""
    return name if len(name) <= _MAX_NAME_LENGTH else name[: _MAX_NAME_LENGTH - 1] + "…"


def measure_width(text: str, size: int) -> int:
    """Return the width of a line of text in pixels."""
    return int(np.ceil(find_font(text, size).getlength(text)))


@lru_cache(maxsize=1024)
def find_font(text: str, size: int) -> Font:
    """Return the first font that has every character of a text; if none has, Pillow's default font."""
    default = ImageFont.load_default(size)
    if _covers(default, text):
        return default
    for name in _SYSTEM_FONTS:
        try:
            font = ImageFont.truetype(name, size)
        except OSError:  # not installed
            continue
        if _covers(font, text):
            return font
    logger.warning("No installed font has every character of %r: pictures show placeholders.", text)
    return default


def _covers(font: Font, text: str) -> bool:
    unknown = bytes(font.getmask(_UNKNOWN))
    return all(character.isspace() or bytes(font.getmask(character)) != unknown for character in set(text))
