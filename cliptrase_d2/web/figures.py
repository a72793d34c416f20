"""An explanation as HTML: Figures 2 and 3 of the supplement, each of their panels a picture with words below it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cliptrase_d2.segmenter.explanation import Explanation
from cliptrase_d2.visualization.explanation import Grouping, numbered_like
from cliptrase_d2.visualization.stages import (
    cluster_picture,
    fitted,
    heat_map,
    mark_patch,
    outline_patches,
    without_colour,
)
from cliptrase_d2.web.html import TEMPLATES, picture_uri

_BLOCK_SIDE, _CLUSTER_SIDE = 240, 480  # pixels of a panel's long side


class Panel(NamedTuple):
    """A picture: its bytes as a URI, what it shows in words, and its caption."""

    uri: str
    alt: str
    caption: str


class Block(NamedTuple):
    """Two panels of a block of the image tower."""

    number: int
    attention: Panel
    recovered: Panel


def correlation_figure(explanation: Explanation, model: str, notes: Sequence[str] = ()) -> str:
    """Figure 2: what the patch looks at in the attention of every block, and what it is alike to once recovered.

    Args:
        explanation: of an image from one of its patches.
        model: as it is called.
        notes: what there is to warn of, random weights for example.
    """
    picture = fitted(explanation.image, _BLOCK_SIDE)
    grid = (explanation.attention.shape[1], explanation.attention.shape[2])

    def panel(values: np.ndarray, is_global: np.ndarray, alt: str, caption: str) -> Panel:
        heat = outline_patches(heat_map(picture, values), is_global)
        return Panel(picture_uri(mark_patch(heat, grid, explanation.patch)), alt, caption)

    blocks = []
    for index, is_global in enumerate(explanation.global_patches):
        number, count = index + 1, int(is_global.sum())
        attention = panel(explanation.attention[index], is_global, f"Attention in block {number}", f"{count} global")
        nothing = np.zeros_like(is_global)
        note = "clustered" if index == explanation.block else ""
        recovered = panel(explanation.recovered[index], nothing, f"Recovered correlation in block {number}", note)
        blocks.append(Block(number, attention, recovered))
    return TEMPLATES.get_template("correlation.html").render(blocks=blocks, model=model, notes=notes)


def clustering_figure(explanation: Explanation, model: str, notes: Sequence[str] = ()) -> str:
    """Figure 3: clusters of patches and the masks made of them, before denoising and after it.

    Args:
        explanation, model, notes: as above.
    """
    picture = without_colour(fitted(explanation.image, _CLUSTER_SIDE))
    after = Grouping(explanation.clusters, explanation.masks)
    before = numbered_like(Grouping(explanation.clusters_before, explanation.masks_before), after)
    is_global = explanation.global_patches[explanation.block]
    rows = []
    for title, grouping, outlined in (
        ("Before denoising", before, is_global),
        ("After denoising", after, np.zeros_like(is_global)),
    ):
        noise = f"{100 * (grouping.clusters < 0).mean():.0f} % of the patches in none"
        clusters = outline_patches(cluster_picture(picture, grouping.clusters), outlined)
        masks = cluster_picture(picture, grouping.masks)
        panels = (
            Panel(picture_uri(clusters), f"{title}: clusters", f"{_count(grouping.clusters)} clusters, {noise}"),
            Panel(picture_uri(masks), f"{title}: masks", f"{_count(grouping.masks)} masks, every pixel in one"),
        )
        rows.append((title, panels))
    return TEMPLATES.get_template("clustering.html").render(rows=rows, model=model, notes=notes)


def _count(labels: np.ndarray) -> int:
    return len(np.unique(labels[labels >= 0]))
