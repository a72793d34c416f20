"""What lies between an image and its labels: which patches are alike to one of them, and which go together."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from cliptrase_d2.visualization.overlay import labels_at_size, overlay, palette

_NOISE = (0, 0, 0)  # patches of no cluster lie in the dark
_HEAT = 0.6  # opacity of the colours
_OUTLINE = (255, 0, 255)


def heat_map(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A number of every patch over a grey image: blue for the smallest, over green and yellow to red for the largest.

    Args:
        image: [H,W,3] uint8 RGB.
        values: [h,w], enlarged bilinearly; equal values are all the smallest.
    Returns:
        [H,W,3] uint8 RGB.
    """
    values = values.astype(np.float32) - values.min()
    values = cv2.resize(values, image.shape[1::-1], interpolation=cv2.INTER_LINEAR) / max(values.max(), 1e-12)
    steps = np.rint(255 * values).astype(np.uint8)
    colours = cv2.cvtColor(cv2.applyColorMap(steps, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
    return cv2.addWeighted(without_colour(image), 1 - _HEAT, colours, _HEAT, 0)


def without_colour(image: np.ndarray) -> np.ndarray:
    """An image in grey, [H,W,3] uint8 RGB of three equal channels: colours over it are those that they are."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def cluster_picture(image: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """The patches of every cluster in a colour of their own over an image, those of none darkened.

    Args:
        image: [H,W,3] uint8 RGB.
        clusters: [h,w] cluster 0 to Q-1 of every patch, or -1 for none.
    Returns:
        [H,W,3] uint8 RGB.
    """
    count = int(clusters.max()) + 1
    colours = np.vstack([np.array([_NOISE], np.uint8), palette(count)])
    return overlay(image, labels_at_size(clusters + 1, image.shape[:2]), colours)


def mark_patch(image: np.ndarray, grid: tuple[int, int], patch: tuple[int, int]) -> np.ndarray:
    """A frame around one patch, white in black, so that it shows on anything.

    Args:
        image: [H,W,3] uint8 RGB.
        grid: (h, w) patches.
        patch: (row, column) of the one.
    Returns:
        [H,W,3] uint8 RGB.
    """
    marked = image.copy()
    (top, bottom), (left, right) = (
        (round(place * side / parts), round((place + 1) * side / parts))
        for place, side, parts in zip(patch, image.shape[:2], grid, strict=True)
    )
    width = max(1, min(image.shape[:2]) // 160)
    for margin, colour in ((2 * width, (0, 0, 0)), (width, (255, 255, 255))):
        outer = (left - margin, top - margin), (right + margin - 1, bottom + margin - 1)
        cv2.rectangle(marked, *outer, colour, thickness=cv2.FILLED)
    marked[top:bottom, left:right] = image[top:bottom, left:right]
    return marked


def outline_patches(image: np.ndarray, patches: np.ndarray) -> np.ndarray:
    """A line around patches, just inside of them, one for those that touch; of a colour that no heat has.

    Args:
        image: [H,W,3] uint8 RGB.
        patches: [h,w] bool.
    Returns:
        [H,W,3] uint8 RGB.
    """
    marked = image.copy()
    inside = labels_at_size(patches, image.shape[:2]).astype(np.uint8)
    width = max(2, min(image.shape[:2]) // 160)
    for margin, colour in ((width + 1, (0, 0, 0)), (width, _OUTLINE)):
        around = np.ones((2 * margin + 1, 2 * margin + 1), np.uint8)
        rest = cv2.erode(inside, around, borderType=cv2.BORDER_CONSTANT, borderValue=0)
        marked[inside > rest] = colour
    return marked


def side_by_side(pictures: Sequence[np.ndarray], gap: int = 12) -> np.ndarray:
    """Pictures of one height in a row, on white.

    Args:
        pictures: each [H,W,3] uint8 RGB.
        gap: pixels between two of them.
    Returns:
        [H,W',3] uint8 RGB.
    """
    space = np.full((len(pictures[0]), gap, 3), 255, np.uint8)
    parts = [part for picture in pictures for part in (space, picture)]
    return np.concatenate(parts[1:], axis=1)


def in_rows(rows: Sequence[Sequence[np.ndarray]], gap: int = 12) -> np.ndarray:
    """Pictures in rows and columns, on white; each at the top left of its place.

    Args:
        rows: of pictures [H,W,3] uint8 RGB of any size; columns are as wide, and rows as high, as what they hold.
        gap: pixels between rows and between columns.
    Returns:
        [H',W',3] uint8 RGB.
    """
    columns = max(map(len, rows))
    heights = [max(len(picture) for picture in row) for row in rows]
    widths = [max(row[column].shape[1] for row in rows if column < len(row)) for column in range(columns)]
    canvas = np.full((sum(heights) + gap * (len(rows) - 1), sum(widths) + gap * (columns - 1), 3), 255, np.uint8)
    top = 0
    for row, height in zip(rows, heights, strict=True):
        left = 0
        for picture, width in zip(row, widths, strict=False):
            canvas[top : top + len(picture), left : left + picture.shape[1]] = picture
            left += width + gap
        top += height + gap
    return canvas


def fitted(image: np.ndarray, side: int) -> np.ndarray:
    """An image with its long side at `side` pixels, [H,W,3] uint8 RGB to [H',W',3]."""
    scale = side / max(image.shape[:2])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
