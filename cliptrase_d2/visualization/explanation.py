"""Pictures that explain a segmentation (supplement, Figures 2 and 3): attention, correlation, clusters and masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from cliptrase_d2.visualization import panels
from cliptrase_d2.visualization.legend import add_caption, paragraphs

_COLUMNS = 6  # layers per row
_MIN_NOTES_WIDTH = 200  # pixels
_CORRELATION_NOTES = (
    "Attention: how strongly the patch in the white frame attends to every patch.",
    "Recovered: similarity of its queries, keys and values to those of every patch, minus that of the class token.",
    "Blue is the smallest value of a map, red the largest.",
    "Magenta: global patches, which receive over 3 times their share of the attention.",
)
_CLUSTERING_NOTES = (
    "Clusters: patches that resemble the same other patches. Dark: noise, in no cluster.",
    "Masks: every pixel, noise included, belongs to the most similar cluster.",
    "Denoising subtracts the class token's row from all rows. This removes the similarity that all patches share.",
    "Magenta: global patches.",
)


class Grouping(NamedTuple):
    """Clusters of patches, and their masks.

    Attributes:
        clusters: [h,w] int64, 0 to Q-1, or -1 for noise.
        masks: [H,W] int64, cluster of every pixel.
    """

    clusters: np.ndarray
    masks: np.ndarray


def draw_correlation(
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
    """Draw the attention of a patch and, below it, the recovered correlation, layer by layer (supplement, Figure 2).

    Args:
        image: [H,W,3] uint8 RGB.
        patch: (row, column) of the patch.
        attention: [L,h,w], attention of the patch to every patch.
        recovered: [L,h,w], correlation of the patch with every patch.
        global_patches: [L,h,w] bool, outlined in the attention maps.
        layers: indices of the layers to draw; None for all.
        clustered: index of the layer that is clustered, which its caption mentions.
        note: first line of the notes, such as the name of the model.
        side: long side of a panel in pixels.
    Returns:
        [H',W',3] uint8 RGB.
    """
    panel = panels.fit_long_side(image, side)
    above, below = [], []
    for layer in range(len(attention)) if layers is None else layers:
        upper, lower = layer_panels(panel, patch, attention[layer], recovered[layer], global_patches[layer])
        above.append(add_caption(upper, f"layer {layer + 1}: attention, {global_patches[layer].sum()} global"))
        suffix = ", clustered" if layer == clustered else ""
        below.append(add_caption(lower, f"layer {layer + 1}: recovered{suffix}"))
    first = add_caption(panels.mark_patch(panel, attention.shape[1:], patch), "image, with one patch")
    rows = [row[start : start + _COLUMNS] for start in range(0, len(above), _COLUMNS) for row in (above, below)]
    return _add_first_column(first, (note, *_CORRELATION_NOTES), panel, rows)


def draw_clustering(
    image: np.ndarray, global_patches: np.ndarray, before: Grouping, after: Grouping, *, note: str = "", side: int = 320
) -> np.ndarray:
    """Draw clusters and masks before denoising and, below, after it (supplement, Figure 3).

    Clusters that share patches have the same colour in both rows.

    Args:
        image: [H,W,3] uint8 RGB.
        global_patches: [h,w] bool, outlined in the image and in the clusters before denoising.
        before: grouping without suppression of global patches.
        after: grouping of the method.
        note: first line of the notes, such as the name of the model.
        side: long side of a panel in pixels.
    Returns:
        [H',W',3] uint8 RGB.
    """
    panel = panels.fit_long_side(image, side)
    rows = []
    for time, (clusters, masks), left, right in denoising_panels(panel, global_patches, before, after):
        count, noise = _plural(count_labels(clusters), "cluster"), f"{100 * (clusters < 0).mean():.0f} % noise"
        captions = f"{time} denoising: {count}, {noise}", f"{time} denoising: {_plural(count_labels(masks), 'mask')}"
        rows.append([add_caption(left, captions[0]), add_caption(right, captions[1])])
    caption = f"image, {_plural(int(global_patches.sum()), 'global patch', 'es')}"
    first = add_caption(panels.outline_patches(panel, global_patches), caption)
    return _add_first_column(first, (note, *_CLUSTERING_NOTES), panel, rows)


def layer_panels(
    image: np.ndarray, patch: tuple[int, int], attention: np.ndarray, recovered: np.ndarray, global_patches: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the attention of a patch, with outlined global patches, and its recovered correlation in one layer.

    Args:
        image: [H,W,3] uint8 RGB.
        patch: (row, column) of the patch, which is marked.
        attention, recovered: [h,w].
        global_patches: [h,w] bool.
    Returns:
        Two pictures [H,W,3] uint8 RGB.
    """
    attended = panels.outline_patches(panels.draw_heat_map(image, attention), global_patches)
    correlated = panels.draw_heat_map(image, recovered)
    return panels.mark_patch(attended, attention.shape, patch), panels.mark_patch(correlated, attention.shape, patch)


def denoising_panels(
    image: np.ndarray, global_patches: np.ndarray, before: Grouping, after: Grouping
) -> Iterator[tuple[str, Grouping, np.ndarray, np.ndarray]]:
    """Yield "before" and "after" denoising, each with its grouping and two pictures: of its clusters and of its masks.

    Args:
        image, global_patches, before, after: as for `draw_clustering`.
    """
    grey = panels.to_grey(image)
    none = np.zeros_like(global_patches)
    for time, grouping, outlined in (("before", renumber(before, after), global_patches), ("after", after, none)):
        patches = panels.outline_patches(panels.draw_clusters(grey, grouping.clusters), outlined)
        yield time, grouping, patches, panels.draw_clusters(grey, grouping.masks)


def renumber(grouping: Grouping, target: Grouping) -> Grouping:
    """Give each cluster the number, and so the colour, of a cluster in another grouping with which it shares patches.

    The assignment maximises the number of shared patches. Clusters without a counterpart get new numbers.
    """
    count, target_count = (int(labels.max()) + 1 for labels in (grouping.clusters, target.clusters))
    both = (grouping.clusters >= 0) & (target.clusters >= 0)
    shared = np.zeros((count, target_count), np.int64)
    np.add.at(shared, (grouping.clusters[both], target.clusters[both]), 1)
    sources, targets = linear_sum_assignment(shared, maximize=True)
    is_pair = shared[sources, targets] > 0
    numbers = np.full(count + 1, -1)  # the last entry maps noise, -1, to itself
    numbers[sources[is_pair]] = targets[is_pair]
    unpaired = np.flatnonzero(numbers[:-1] < 0)
    numbers[unpaired] = target_count + np.arange(len(unpaired))
    return Grouping(numbers[grouping.clusters], numbers[grouping.masks])


def count_labels(labels: np.ndarray) -> int:
    """Return the number of different labels from 0."""
    return len(np.unique(labels[labels >= 0]))


def _add_first_column(
    first: np.ndarray, notes: Sequence[str], panel: np.ndarray, rows: Sequence[Sequence[np.ndarray]]
) -> np.ndarray:
    """Put a picture, with notes below it in a font size that suits the panel, to the left of two or more rows."""
    text = paragraphs([note for note in notes if note], (panel.shape[0], max(_MIN_NOTES_WIDTH, panel.shape[1])))
    column = [first, text, *[text[:0, :0]] * (len(rows) - 2)]
    return panels.arrange_rows([[cell, *row] for cell, row in zip(column, rows, strict=True)])


def _plural(number: int, noun: str, ending: str = "s") -> str:
    return f"{number} {noun}{'' if number == 1 else ending}"
