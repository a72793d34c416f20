"""Text in pictures: a legend on the right, a caption above, and paragraphs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from cliptrase_d2.visualization.fonts import choose_font_size, find_font, measure_width, shorten

_INK, _PAPER, _FRAME = (34, 34, 34), (255, 255, 255), (150, 150, 150)


class LegendEntry(NamedTuple):
    """One line of a legend.

    Attributes:
        name: of the class.
        share: of the pixels, 0 to 1.
        colour: [3] uint8 RGB; None for pixels without a tint, whose box is crossed out.
    """

    name: str
    share: float
    colour: np.ndarray | None


def add_legend(picture: np.ndarray, entries: Sequence[LegendEntry], names: Sequence[str] = ()) -> np.ndarray:
    """Add a legend on the right of a picture.

    Args:
        picture: [H,W,3] uint8 RGB.
        entries: in display order.
        names: all names that similar pictures show, for legends of one width; none for the least width.
    Returns:
        [H,W',3] uint8 RGB, W' > W.
    """
    return np.concatenate([picture, legend(entries, len(picture), names)], axis=1)


def legend(entries: Sequence[LegendEntry], height: int, names: Sequence[str] = ()) -> np.ndarray:
    """Draw a legend with colours, names and shares. If it does not fit, its last line sums up the remaining classes.

    Args:
        entries: in display order.
        height: H, of the picture beside the legend.
        names: as in ``add_legend``.
    Returns:
        [H,W,3] uint8 RGB, as wide as the names require.
    """
    size = choose_font_size(height)
    row, rows = _measure_rows(height)
    count = len(entries) if len(entries) <= rows else max(0, rows - 1)
    lines = [(shorten(entry.name), _percent(entry.share)) for entry in entries[:count]]
    if rest := entries[count:]:
        lines.append((f"… and {len(rest)} more", _percent(sum(entry.share for entry in rest))))
    all_names = [*(name for name, _ in lines), *map(shorten, names)]
    all_shares = [*(share for _, share in lines), *([_percent(1.0)] if names else [])]
    name_width = max((measure_width(name, size) for name in all_names), default=0)
    share_width = max((measure_width(share, size) for share in all_shares), default=0)
    text_left = 2 * size + size // 2  # margin, colour, gap
    share_right = text_left + name_width + size + share_width
    canvas = Image.new("RGB", (share_right + size, height), _PAPER)
    draw = ImageDraw.Draw(canvas)
    for index, (name, share) in enumerate(lines):
        middle = size // 2 + row * index + row // 2
        if index < count:
            _draw_box(draw, (size, middle - size // 2, 2 * size, middle + size // 2), entries[index].colour)
        draw.text((text_left, middle), name, _INK, find_font(name, size), anchor="lm")
        draw.text((share_right, middle), share, _INK, find_font(share, size), anchor="rm")
    return np.array(canvas)


def count_rows(height: int) -> int:
    """Return the number of entries that a legend of a height has room for."""
    return _measure_rows(height)[1]


def add_caption(picture: np.ndarray, text: str) -> np.ndarray:
    """Add a line of text above a picture.

    Args:
        picture: [H,W,3] uint8 RGB; padded with white on the right if the text is wider.
        text: one line.
    Returns:
        [H',W',3] uint8 RGB, H' > H and W' >= W.
    """
    height, width = picture.shape[:2]
    size = choose_font_size(height)
    canvas = Image.new("RGB", (max(width, measure_width(text, size) + size), height + 2 * size), _PAPER)
    ImageDraw.Draw(canvas).text((size // 2, size), text, _INK, find_font(text, size), anchor="lm")
    canvas.paste(Image.fromarray(picture), (0, 2 * size))
    return np.array(canvas)


def paragraphs(texts: Sequence[str], size: tuple[int, int]) -> np.ndarray:
    """Draw paragraphs on white, with lines broken between words.

    Args:
        texts: one per paragraph.
        size: (height, width) of the picture that the text belongs to, which determines the font size. The result is
            taller if the text does not fit, and wider if a word does not fit.
    Returns:
        [H,W,3] uint8 RGB.
    """
    height, width = size
    font_size = choose_font_size(height)
    lines: list[str] = []
    for text in texts:
        lines += [*([""] if lines else []), *_wrap(text, width - font_size, font_size)]
    step = round(font_size * 1.4)
    widest = max((measure_width(line, font_size) for line in lines), default=0)
    canvas = Image.new("RGB", (max(width, widest + font_size), max(height, step * len(lines))), _PAPER)
    draw = ImageDraw.Draw(canvas)
    for index, line in enumerate(lines):
        draw.text((font_size // 2, step * index + step // 2), line, _INK, find_font(line, font_size), anchor="lm")
    return np.array(canvas)


def _measure_rows(height: int) -> tuple[int, int]:
    """Return the height of a row in pixels, and the number of rows."""
    size = choose_font_size(height)
    row = round(size * 1.5)
    return row, (height - size) // row


def _draw_box(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], colour: np.ndarray | None) -> None:
    if colour is None:
        draw.rectangle(box, outline=_FRAME)
        draw.line(box, _FRAME)
    else:
        draw.rectangle(box, fill=(int(colour[0]), int(colour[1]), int(colour[2])), outline=_FRAME)


def _wrap(text: str, width: int, size: int) -> list[str]:
    """Break a text into lines of at most `width` pixels, or of a single word."""
    lines: list[str] = []
    for word in text.split():
        if lines and measure_width(f"{lines[-1]} {word}", size) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.0005 or not share else "< 0.1 %"
