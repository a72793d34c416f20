"""Class names written on the large regions of a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw

from cliptrase_d2.visualization.fonts import choose_font_size, find_font, measure_width, shorten
from cliptrase_d2.visualization.overlay import labels_at_size

_MIN_SHARE = 0.015  # of the picture; smaller regions have no name
_SIDE = 512  # long side in pixels of the label map that places are searched in
_FONT_SCALES = (1.0, 0.8)  # the smaller font is used where the larger one does not fit
_MARGIN = 0.25  # between text and boundaries, in font sizes
_INK, _HALO = (255, 255, 255), (20, 20, 20)


class PlacedName(NamedTuple):
    """A name in a picture: class index, text, font size, and the (x, y) of its centre in pixels."""

    class_index: int
    text: str
    size: int
    centre: tuple[float, float]


def draw_names(picture: np.ndarray, label_map: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Write on every large region the name of its class, in white with a dark halo.

    A region is a connected part of a class. It has no name if the text does not fit between its boundaries.

    Args:
        picture: [H,W,3] uint8 RGB.
        label_map: [H,W] class indices, 0 to C-1, or -1 for no name.
        classes: C names.
    Returns:
        [H,W,3] uint8 RGB.
    """
    canvas = Image.fromarray(picture)
    draw = ImageDraw.Draw(canvas)
    for _, text, size, centre in place_names(label_map, classes):
        width = max(1, size // 9)
        draw.text(centre, text, _INK, find_font(text, size), anchor="mm", stroke_width=width, stroke_fill=_HALO)
    return np.array(canvas)


def place_names(label_map: np.ndarray, classes: Sequence[str]) -> list[PlacedName]:
    """Find a place for the name of each large region: inside it, the farthest from its boundary.

    Args:
        label_map, classes: as in ``draw_names``.
    """
    scale = max(1.0, max(label_map.shape) / _SIDE)
    height, width = (max(1, round(side / scale)) for side in label_map.shape)
    small = labels_at_size(label_map, (height, width))
    placed = []
    for index, region in _find_regions(small):
        text = shorten(classes[index])
        for font_scale in _FONT_SCALES:
            size = round(font_scale * choose_font_size(len(label_map)))
            margin = 2 * _MARGIN * size
            box = (size + margin) / scale, (measure_width(text, size) + margin) / scale  # height, width
            if centre := _find_centre(region, box):
                placed.append(PlacedName(index, text, size, (centre[0] * scale, centre[1] * scale)))
                break
    return placed


def _find_regions(label_map: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield class and mask [h,w] uint8 of every connected region that is large enough."""
    least = _MIN_SHARE * label_map.size
    for index in np.unique(label_map[label_map >= 0]).tolist():
        inside = (label_map == index).astype(np.uint8)
        if inside.sum() < least:
            continue
        _, regions, statistics, _ = cv2.connectedComponentsWithStats(inside, connectivity=4)
        for number in np.flatnonzero(statistics[:, cv2.CC_STAT_AREA] >= least).tolist():
            if number:  # 0 is the rest of the picture
                yield index, (regions == number).astype(np.uint8)


def _find_centre(region: np.ndarray, box: tuple[float, float]) -> tuple[float, float] | None:
    """Return the centre (x, y) of a box of (height, width) inside a region, [h,w] 0 or 1; None if it does not fit."""
    kernel = np.ones([2 * int(np.ceil(side / 2)) + 1 for side in box], np.uint8)  # odd, so that its centre is a pixel
    padded = cv2.copyMakeBorder(region, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    fits = cv2.erode(padded, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    if not fits.any():
        return None
    distance = np.where(fits, cv2.distanceTransform(padded, cv2.DIST_L2, 5), 0)
    y, x = np.unravel_index(distance.argmax(), distance.shape)
    return float(x) - 0.5, float(y) - 0.5  # without the padding, at the middle of the pixel
