"""Colour palette, and label maps drawn over photographs."""

from __future__ import annotations

import cv2
import numpy as np

_GOLDEN_RATIO = 0.618034  # steps of this size around the colour circle keep successive hues far apart
# Saturation and value, in turn. They separate colours whose hues are close.
_SHADES = ((0.95, 1.00), (1.00, 0.75), (0.40, 1.00), (0.80, 0.50), (0.80, 0.95), (0.50, 0.65))
_PIXELS_PER_LINE_WIDTH = 400  # of the short side: lines are 1 pixel wide below 600 pixels, 2 below 1000


def palette(count: int) -> np.ndarray:
    """Return the colours of classes 0, 1, …. The colour of a class does not depend on the number of classes.

    Args:
        count: C.
    Returns:
        [C,3] uint8 RGB.
    """
    index = np.arange(max(1, count))  # OpenCV rejects empty arrays
    hue = (index * _GOLDEN_RATIO) % 1 * 360
    saturation, value = np.array(_SHADES)[index % len(_SHADES)].T
    colours = np.stack([hue, saturation, value], axis=1).astype(np.float32)  # [C,3]
    return np.rint(cv2.cvtColor(colours[None], cv2.COLOR_HSV2RGB)[0, :count] * 255).astype(np.uint8)


def overlay(image: np.ndarray, label_map: np.ndarray, colours: np.ndarray, opacity: float = 0.5) -> np.ndarray:
    """Blend a photograph with the colours of its classes and draw class boundaries in white.

    Args:
        image: [H,W,3] uint8 RGB.
        label_map: [H,W] class indices, 0 to C-1.
        colours: [C,3] uint8 RGB.
        opacity: of the colours, 0 to 1.
    Returns:
        [H,W,3] uint8 RGB.
    Raises:
        ValueError: image and label map differ in size, or a label has no colour.
    """
    if image.shape != (*label_map.shape, 3):
        raise ValueError(f"The image has shape {image.shape}, but the label map {label_map.shape}.")
    if label_map.size and not 0 <= label_map.min() <= label_map.max() < len(colours):
        raise ValueError(f"Labels {label_map.min()} to {label_map.max()} exceed the range of {len(colours)} colours.")
    blended = cv2.addWeighted(image, 1 - opacity, colours[label_map], opacity, 0)
    blended[find_boundaries(label_map)] = 255
    return blended


def find_boundaries(label_map: np.ndarray) -> np.ndarray:
    """Return the pixels at class boundaries. Lines become wider with the size of the map.

    Args:
        label_map: [H,W] class indices, 0 to 65535.
    Returns:
        [H,W] bool.
    """
    side = 1 + max(1, round(min(label_map.shape) / _PIXELS_PER_LINE_WIDTH))
    return cv2.morphologyEx(label_map.astype(np.uint16), cv2.MORPH_GRADIENT, np.ones((side, side), np.uint8)) > 0


def labels_at_size(label_map: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a label map. Each pixel takes the label under its centre.

    Args:
        label_map: [h,w] class indices.
        size: (H, W).
    Returns:
        [H,W] of the same dtype.
    """
    rows, columns = (
        ((np.arange(target) + 0.5) * source / target).astype(np.int64)
        for target, source in zip(size, label_map.shape, strict=True)
    )
    return label_map[rows[:, None], columns]
