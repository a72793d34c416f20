"""Attention beside what is recovered of it, clusters and masks before and after denoising: the supplement's figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from cliptrase_d2.visualization.legend import paragraphs, with_caption
from cliptrase_d2.visualization.stages import (
    cluster_picture,
    fitted,
    heat_map,
    in_rows,
    mark_patch,
    outline_patches,
    without_colour,
)

_COLUMNS = 6  # of layers; further ones stand below
_NARROWEST = 200  # pixels of the notes beside a narrow image
_CORRELATION_NOTES = (
    "Attention: what the patch in the white frame gives to every patch.",
    "Recovered: how alike it is to every patch by queries, keys and values, less what the class token is.",
    "Blue is the least of a map, red the most.",
    "Magenta: global patches, which get over 3 times their share of all attention.",
)
_CLUSTERING_NOTES = (
    "Clusters: patches that are alike to the same patches. In the dark: noise, of no cluster.",
    "Masks: every pixel goes to the cluster that it is most alike to, noise too.",
    "Denoising takes the class token's row from the row of every patch, and with it what all are alike to.",
    "Magenta: global patches.",
)


class Grouping(NamedTuple):
    """Which patches go together, and the masks that they make.

    Attributes:
        clusters: [h,w] int64, 0 to Q-1, -1 for noise.
        masks: [H,W] int64, the same of every pixel.
    """

    clusters: np.ndarray
    masks: np.ndarray


def correlation_picture(
    image: np.ndarray,
    patch: tuple[int, int],
    attention: np.ndarray,
    recovered: np.ndarray,
    global_patches: np.ndarray,
    *,
    layers: Sequence[int] | None = None,
    clustered: int | None = None,
    note: str = "",
    side: int = 256,
) -> np.ndarray:
    """What a patch attends to and, below, what it is alike to, layer by layer (supplement, Figure 2).

    Args:
        image: [H,W,3] uint8 RGB.
        patch: (row, column) of the patch.
        attention: [L,h,w], what the patch gives to every patch.
        recovered: [L,h,w], how alike it is to every patch.
        global_patches: [L,h,w] bool, outlined in the attention.
        layers: indices of those that are shown; None for all.
        clustered: index of the one whose correlation is clustered; its caption says so.
        note: a first line under the image, such as the model's name.
        side: the longer one of the panels, in pixels.
    Returns:
        [H',W',3] uint8 RGB.
    """
    panel, grid = fitted(image, side), (attention.shape[1], attention.shape[2])
    shown = range(len(attention)) if layers is None else layers
    above = [
        with_caption(
            mark_patch(outline_patches(heat_map(panel, attention[layer]), global_patches[layer]), grid, patch),
            f"layer {layer + 1}: attention, {global_patches[layer].sum()} global",
        )
        for layer in shown
    ]
    below = [
        with_caption(
            mark_patch(heat_map(panel, recovered[layer]), grid, patch),
            f"layer {layer + 1}: recovered" + (", clustered" if layer == clustered else ""),
        )
        for layer in shown
    ]
    first = with_caption(mark_patch(panel, grid, patch), "image, with one patch")
    rows = [row[left : left + _COLUMNS] for left in range(0, len(above), _COLUMNS) for row in (above, below)]
    return _beside(first, (note, *_CORRELATION_NOTES), panel, rows)


def clustering_picture(
    image: np.ndarray,
    global_patches: np.ndarray,
    before: Grouping,
    after: Grouping,
    *,
    note: str = "",
    side: int = 320,
) -> np.ndarray:
    """Clusters and masks before denoising and, below, after it (supplement, Figure 3).

    Clusters that share patches have one colour in both rows.

    Args:
        image: [H,W,3] uint8 RGB.
        global_patches: [h,w] bool, outlined in the image and in the clusters before.
        before: without taking away what is global.
        after: as the method has it.
        note: a first line under the image, such as the model's name.
        side: the longer one of the panels, in pixels.
    Returns:
        [H',W',3] uint8 RGB.
    """
    panel = fitted(image, side)
    grey = without_colour(panel)
    before = numbered_like(before, after)
    rows = []
    for when, outlined, (clusters, masks) in (
        ("before", global_patches, before),
        ("after", np.zeros_like(global_patches), after),
    ):
        found, noise = _counted(_count(clusters), "cluster"), 100 * (clusters < 0).mean()
        patches = outline_patches(cluster_picture(grey, clusters), outlined)
        rows.append(
            [
                with_caption(patches, f"{when} denoising: {found}, {noise:.0f} % noise"),
                with_caption(cluster_picture(grey, masks), f"{when} denoising: {_counted(_count(masks), 'mask')}"),
            ]
        )
    caption = f"image, {_counted(int(global_patches.sum()), 'global patch', 'global patches')}"
    first = with_caption(outline_patches(panel, global_patches), caption)
    return _beside(first, (note, *_CLUSTERING_NOTES), panel, rows)


def numbered_like(grouping: Grouping, other: Grouping) -> Grouping:
    """The grouping with the numbers of another's clusters, each that of one it shares patches with, for their colours.

    The pairs are those that share most patches in all. A cluster without a partner gets a number beyond the other's.
    """
    count, wanted = (int(labels.max()) + 1 for labels in (grouping.clusters, other.clusters))
    both = (grouping.clusters >= 0) & (other.clusters >= 0)
    shared = np.zeros((count, wanted), np.int64)
    np.add.at(shared, (grouping.clusters[both], other.clusters[both]), 1)
    ours, theirs = linear_sum_assignment(shared, maximize=True)
    is_pair = shared[ours, theirs] > 0
    numbers = np.full(count + 1, -1)  # the last one stays, for noise
    numbers[ours[is_pair]] = theirs[is_pair]
    alone = np.flatnonzero(numbers[:-1] < 0)
    numbers[alone] = wanted + np.arange(len(alone))
    return Grouping(numbers[grouping.clusters], numbers[grouping.masks])


def _beside(
    first: np.ndarray, notes: Sequence[str], panel: np.ndarray, rows: Sequence[Sequence[np.ndarray]]
) -> np.ndarray:
    """A picture with notes under it, in letters that go with a panel, on the left of two rows or more."""
    text = paragraphs([note for note in notes if note], (panel.shape[0], max(_NARROWEST, panel.shape[1])))
    left = [first, text, *[text[:0, :0]] * (len(rows) - 2)]
    return in_rows([[beginning, *row] for beginning, row in zip(left, rows, strict=True)])


def _counted(number: int, one: str, more: str = "") -> str:
    return f"{number} {one}" if number == 1 else f"{number} {more or one + 's'}"


def _count(labels: np.ndarray) -> int:
    return len(np.unique(labels[labels >= 0]))
