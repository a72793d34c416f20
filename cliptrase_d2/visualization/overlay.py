"""Label maps drawn over photographs."""

from __future__ import annotations

import cv2
import numpy as np

from cliptrase_d2.unknown import UNKNOWN

OPACITY = 0.45  # of the colours: the photograph stays visible
_PIXELS_PER_LINE_WIDTH = 400  # of the short side: lines are 1 pixel wide below 600 pixels, 2 below 1000


def overlay(image: np.ndarray, label_map: np.ndarray, colours: np.ndarray, opacity: float = OPACITY) -> np.ndarray:
    """Blend a photograph with the colours of its classes and draw class boundaries in white. Unknown pixels stay.

    Args:
        image: [H,W,3] uint8 RGB.
        label_map: [H,W] class indices, 0 to C-1, or -1 for unknown.
        colours: [C,3] uint8 RGB.
        opacity: of the colours, 0 to 1.
    Returns:
        [H,W,3] uint8 RGB.
    Raises:
        ValueError: image and label map differ in size, or a label has no colour.
    """
    if image.shape != (*label_map.shape, 3):
        raise ValueError(f"The image has shape {image.shape}, but the label map {label_map.shape}.")
    if label_map.size and not UNKNOWN <= label_map.min() <= label_map.max() < len(colours):
        raise ValueError(f"Labels {label_map.min()} to {label_map.max()} exceed the range of {len(colours)} colours.")
    with_unknown = np.vstack([colours, np.zeros((1, 3))]).astype(np.uint8)  # the last row is that of -1
    blended = cv2.addWeighted(image, 1 - opacity, with_unknown[label_map], opacity, 0)
    unknown = label_map == UNKNOWN
    blended[unknown] = image[unknown]
    blended[find_boundaries(label_map)] = 255
    return blended


def find_boundaries(label_map: np.ndarray) -> np.ndarray:
    """Return the pixels at class boundaries. Lines become wider with the size of the map.

    Args:
        label_map: [H,W] class indices, -1 to 65534.
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
