"""Words beside a picture: colours and class names on its right, a caption above it, lines of text."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

logger = logging.getLogger(__name__)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# Pillow's own font knows little but ASCII; these are looked for on the machine, where a name needs more.
_SYSTEM_FONTS = (
    "DejaVuSans.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSans-Regular.ttf",
    "Arial Unicode.ttf",
    "msyh.ttc",
    "arial.ttf",
)
_UNKNOWN = "\uffff"  # no character; every font draws its sign for what it lacks
_SMALLEST_FONT, _LARGEST_FONT = 12, 30
_ROWS_WANTED = 22  # what a picture's height is divided by for the size of the font
_LONGEST_NAME = 36
_INK, _PAPER, _FRAME = (34, 34, 34), (255, 255, 255), (150, 150, 150)


class LegendEntry(NamedTuple):
    """One line of a legend.

    Attributes:
        name: of the class.
        share: of the pixels, 0 to 1.
        colour: [3] uint8 RGB.
    """

    name: str
    share: float
    colour: np.ndarray


def with_legend(picture: np.ndarray, entries: Sequence[LegendEntry]) -> np.ndarray:
    """The picture with its legend on the right.

    Args:
        picture: [H,W,3] uint8 RGB.
        entries: in the order in which they are shown.
    Returns:
        [H,W',3] uint8 RGB, W' > W.
    """
    return np.concatenate([picture, legend(entries, len(picture))], axis=1)


def legend(entries: Sequence[LegendEntry], height: int) -> np.ndarray:
    """Colours, names and shares, one class in a line; the last line counts those that found no place.

    Args:
        entries: in the order in which they are shown.
        height: H, of the picture that it stands beside.
    Returns:
        [H,W,3] uint8 RGB, as wide as the names need.
    """
    size = _font_size(height)
    row = round(size * 1.5)
    shown, rest = _fit(entries, (height - size) // row)
    lines: list[tuple[str, str, np.ndarray | None]] = [
        (_shortened(entry.name), _percent(entry.share), entry.colour) for entry in shown
    ]
    if rest:
        lines.append((f"… and {len(rest)} more", _percent(sum(entry.share for entry in rest)), None))
    names = max((_width(name, size) for name, _, _ in lines), default=0)
    shares = max((_width(share, size) for _, share, _ in lines), default=0)
    text_left = 2 * size + size // 2  # margin, colour, gap
    share_right = text_left + names + size + shares
    canvas = Image.new("RGB", (share_right + size, height), _PAPER)
    draw = ImageDraw.Draw(canvas)
    for index, (name, share, colour) in enumerate(lines):
        middle = size // 2 + row * index + row // 2
        if colour is not None:
            box = (size, middle - size // 2, 2 * size, middle + size // 2)
            draw.rectangle(box, fill=(int(colour[0]), int(colour[1]), int(colour[2])), outline=_FRAME)
        draw.text((text_left, middle), name, _INK, _font(name, size), anchor="lm")
        draw.text((share_right, middle), share, _INK, _font(share, size), anchor="rm")
    return np.array(canvas)


def with_caption(picture: np.ndarray, text: str) -> np.ndarray:
    """The picture with a line of text above it.

    Args:
        picture: [H,W,3] uint8 RGB; gets white on its right where the text is wider.
        text: one line.
    Returns:
        [H',W',3] uint8 RGB, H' > H and W' >= W.
    """
    height, width = picture.shape[:2]
    size = _font_size(height)
    canvas = Image.new("RGB", (max(width, _width(text, size) + size), height + 2 * size), _PAPER)
    ImageDraw.Draw(canvas).text((size // 2, size), text, _INK, _font(text, size), anchor="lm")
    canvas.paste(Image.fromarray(picture), (0, 2 * size))
    return np.array(canvas)


def paragraphs(texts: Sequence[str], size: tuple[int, int]) -> np.ndarray:
    """Text on white, in lines that are broken between words.

    Args:
        texts: one for each paragraph.
        size: (height, width) of a picture that it goes with, which gives the size of its letters; where the text does
            not fit, it is higher, and where one word does not, wider.
    Returns:
        [H,W,3] uint8 RGB.
    """
    height, width = size
    letters = _font_size(height)
    lines: list[str] = []
    for text in texts:
        lines += [*([""] if lines else []), *_broken(text, width - letters, letters)]
    step = round(letters * 1.4)
    widest = max((_width(line, letters) for line in lines), default=0)
    canvas = Image.new("RGB", (max(width, widest + letters), max(height, step * len(lines))), _PAPER)
    draw = ImageDraw.Draw(canvas)
    for index, line in enumerate(lines):
        draw.text((letters // 2, step * index + step // 2), line, _INK, _font(line, letters), anchor="lm")
    return np.array(canvas)


def _broken(text: str, width: int, size: int) -> list[str]:
    """Lines of a text, each as many words as fit, at least one."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and _width(longer, size) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _font_size(height: int) -> int:
    """Pixels of letters that go with a picture of this height."""
    return min(_LARGEST_FONT, max(_SMALLEST_FONT, height // _ROWS_WANTED))


def _fit(entries: Sequence[LegendEntry], rows: int) -> tuple[Sequence[LegendEntry], Sequence[LegendEntry]]:
    """Entries that have a line each, and the others, which share the last one."""
    shown = len(entries) if len(entries) <= rows else max(0, rows - 1)
    return entries[:shown], entries[shown:]


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.0005 else "< 0.1 %"


def _width(text: str, size: int) -> int:
    return int(np.ceil(_font(text, size).getlength(text)))


@lru_cache(maxsize=1024)
def _font(text: str, size: int) -> Font:
    """The first font that has every character of a text, or else the one that Pillow brings."""
    default = ImageFont.load_default(size)
    if _covers(default, text):
        return default
    for name in _SYSTEM_FONTS:
        try:
            font = ImageFont.truetype(name, size)
        except OSError:  # not on this machine
            continue
        if _covers(font, text):
            return font
    logger.warning("No font of this machine has every character of %r: the legend shows boxes in their place.", text)
    return default


def _covers(font: Font, text: str) -> bool:
    unknown = bytes(font.getmask(_UNKNOWN))
    return all(character.isspace() or bytes(font.getmask(character)) != unknown for character in set(text))
