"""Colours over a photograph, with thin lines where regions meet."""

from __future__ import annotations

import cv2
import numpy as np

_GOLDEN_RATIO = 0.618034  # steps of this on the colour circle never come back near the last few
# Saturation and value, in turn: colours whose hues do come near each other differ in these.
_SHADES = ((0.95, 1.00), (1.00, 0.75), (0.40, 1.00), (0.80, 0.50), (0.80, 0.95), (0.50, 0.65))
_PIXELS_PER_LINE_WIDTH = 400  # of the short side: lines are 1 pixel wide below 600 pixels, 2 below 1000


def palette(count: int) -> np.ndarray:
    """Colours for class 0, 1, …; that of a class does not depend on how many there are.

    Args:
        count: C.
    Returns:
        [C,3] uint8 RGB.
    """
    index = np.arange(count)
    hue = (index * _GOLDEN_RATIO) % 1 * 360
    saturation, value = np.array(_SHADES)[index % len(_SHADES)].T
    colours = np.stack([hue, saturation, value], axis=1).astype(np.float32)  # [C,3]
    if not count:
        return colours.astype(np.uint8)
    return np.rint(cv2.cvtColor(colours[None], cv2.COLOR_HSV2RGB)[0] * 255).astype(np.uint8)


def overlay(image: np.ndarray, label_map: np.ndarray, colours: np.ndarray, opacity: float = 0.5) -> np.ndarray:
    """Lay the colour of each pixel's class over a photograph and draw the borders between classes in white.

    Args:
        image: [H,W,3] uint8 RGB.
        label_map: [H,W] class indices, 0 to C-1.
        colours: [C,3] uint8 RGB.
        opacity: of the colours, 0 to 1.
    Returns:
        [H,W,3] uint8 RGB.
    Raises:
        ValueError: sizes that differ, or a label without a colour.
    """
    if image.shape != (*label_map.shape, 3):
        raise ValueError(f"An image of shape {image.shape} does not go with labels of shape {label_map.shape}.")
    if label_map.size and not 0 <= label_map.min() <= label_map.max() < len(colours):
        raise ValueError(f"Labels {label_map.min()} to {label_map.max()} do not go with {len(colours)} colours.")
    mixed = cv2.addWeighted(image, 1 - opacity, colours[label_map], opacity, 0)
    mixed[boundaries(label_map)] = 255
    return mixed


def boundaries(label_map: np.ndarray) -> np.ndarray:
    """Where classes meet, as lines whose width grows with the size of the map.

    Args:
        label_map: [H,W] class indices, 0 to 65535.
    Returns:
        [H,W] bool.
    """
    side = 1 + max(1, round(min(label_map.shape) / _PIXELS_PER_LINE_WIDTH))
    return cv2.morphologyEx(label_map.astype(np.uint16), cv2.MORPH_GRADIENT, np.ones((side, side), np.uint8)) > 0


def labels_at_size(label_map: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The label map at another size: each pixel has the label that lies under its middle.

    Args:
        label_map: [h,w] class indices.
        size: (H, W).
    Returns:
        [H,W] of the same type.
    """
    rows, columns = (
        ((np.arange(wanted) + 0.5) * given / wanted).astype(np.int64)
        for wanted, given in zip(size, label_map.shape, strict=True)
    )
    return label_map[rows[:, None], columns]
