"""Pictures of the intermediate stages: heat maps, clusters, marked patches, and grids of pictures."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from cliptrase_d2.visualization.colours import palette
from cliptrase_d2.visualization.overlay import labels_at_size, overlay

_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)
_OUTLINE = (255, 0, 255)  # magenta does not occur in the heat map
_HEAT_OPACITY = 0.6


def draw_heat_map(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Draw one value per patch over a grey image, from blue (smallest) through green and yellow to red (largest).

    Args:
        image: [H,W,3] uint8 RGB.
        values: [h,w], enlarged bilinearly. If all values are equal, the map is blue.
    Returns:
        [H,W,3] uint8 RGB.
    """
    values = values.astype(np.float32) - values.min()
    values = cv2.resize(values, image.shape[1::-1], interpolation=cv2.INTER_LINEAR) / max(values.max(), 1e-12)
    steps = np.rint(255 * values).astype(np.uint8)
    colours = cv2.cvtColor(cv2.applyColorMap(steps, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
    return cv2.addWeighted(to_grey(image), 1 - _HEAT_OPACITY, colours, _HEAT_OPACITY, 0)


def to_grey(image: np.ndarray) -> np.ndarray:
    """Return an image in grey, [H,W,3] uint8 with three equal channels."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def draw_clusters(image: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Draw each cluster of patches in its own colour over an image. Noise is darkened.

    Args:
        image: [H,W,3] uint8 RGB.
        clusters: [h,w] cluster of each patch, 0 to Q-1, or -1 for noise.
    Returns:
        [H,W,3] uint8 RGB.
    """
    colours = np.vstack([np.array([_BLACK], np.uint8), palette(int(clusters.max()) + 1)])
    return overlay(image, labels_at_size(clusters + 1, image.shape[:2]), colours)


def mark_patch(image: np.ndarray, grid: Sequence[int], patch: tuple[int, int]) -> np.ndarray:
    """Frame one patch in white and black, which is visible on any background.

    Args:
        image: [H,W,3] uint8 RGB.
        grid: (h, w) patches.
        patch: (row, column).
    Returns:
        [H,W,3] uint8 RGB.
    """
    marked = image.copy()
    (top, bottom), (left, right) = (
        (round(index * side / count), round((index + 1) * side / count))
        for index, side, count in zip(patch, image.shape[:2], grid, strict=True)
    )
    width = max(1, min(image.shape[:2]) // 160)
    for margin, colour in ((2 * width, _BLACK), (width, _WHITE)):
        corners = (left - margin, top - margin), (right + margin - 1, bottom + margin - 1)
        cv2.rectangle(marked, *corners, colour, thickness=cv2.FILLED)
    marked[top:bottom, left:right] = image[top:bottom, left:right]
    return marked


def outline_patches(image: np.ndarray, patches: np.ndarray) -> np.ndarray:
    """Outline patches in magenta, just inside their borders. Adjacent patches share one outline.

    Args:
        image: [H,W,3] uint8 RGB.
        patches: [h,w] bool.
    Returns:
        [H,W,3] uint8 RGB.
    """
    marked = image.copy()
    inside = labels_at_size(patches, image.shape[:2]).astype(np.uint8)
    width = max(2, min(image.shape[:2]) // 160)
    for margin, colour in ((width + 1, _BLACK), (width, _OUTLINE)):
        kernel = np.ones((2 * margin + 1, 2 * margin + 1), np.uint8)
        core = cv2.erode(inside, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
        marked[inside > core] = colour
    return marked


def place_side_by_side(pictures: Sequence[np.ndarray], gap: int = 12) -> np.ndarray:
    """Arrange pictures in a row, on white.

    Args:
        pictures: each [H,W,3] uint8 RGB.
        gap: pixels between neighbours.
    Returns:
        [H,W',3] uint8 RGB.
    """
    return arrange_rows([pictures], gap)


def arrange_rows(rows: Sequence[Sequence[np.ndarray]], gap: int = 12) -> np.ndarray:
    """Arrange pictures in rows and columns, on white, each at the top left of its cell.

    Args:
        rows: rows of pictures [H,W,3] uint8 RGB of any size. Cells fit the largest picture of their row and column.
        gap: pixels between rows and between columns.
    Returns:
        [H',W',3] uint8 RGB.
    """
    heights = [max(map(len, row)) for row in rows]
    widths = [max(row[column].shape[1] for row in rows if column < len(row)) for column in range(max(map(len, rows)))]
    canvas = np.full((sum(heights) + gap * (len(heights) - 1), sum(widths) + gap * (len(widths) - 1), 3), 255, np.uint8)
    top = 0
    for row, height in zip(rows, heights, strict=True):
        left = 0
        for picture, width in zip(row, widths, strict=False):
            canvas[top : top + len(picture), left : left + picture.shape[1]] = picture
            left += width + gap
        top += height + gap
    return canvas


def fit_long_side(image: np.ndarray, side: int) -> np.ndarray:
    """Resize an image, [H,W,3] uint8 RGB, so that its long side is ``side`` pixels."""
    scale = side / max(image.shape[:2])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
