"""HTML of an explanation: the panels of Figures 2 and 3 of the supplement."""

from __future__ import annotations

from collections.abc import Sequence

from cliptrase_d2.segmenter.explanation import Explanation
from cliptrase_d2.visualization import panels
from cliptrase_d2.visualization.explanation import Grouping, count_labels, denoising_panels, layer_panels
from cliptrase_d2.web.html import TEMPLATES, encode_picture_uri

_BLOCK_SIDE, _CLUSTER_SIDE = 240, 480  # long side of a panel in pixels


def render_correlation(explanation: Explanation, model: str, notes: Sequence[str] = ()) -> str:
    """Render Figure 2: the attention of the patch and its recovered correlation, for every block.

    Args:
        explanation: of one patch of an image.
        model: name of the model.
        notes: warnings, such as random weights.
    """
    picture = panels.fit_long_side(explanation.image, _BLOCK_SIDE)
    maps = zip(explanation.attention, explanation.recovered, explanation.global_patches, strict=True)
    groups = []
    for index, (attention, recovered, is_global) in enumerate(maps):
        above, below = layer_panels(picture, explanation.patch, attention, recovered, is_global)
        block, clustered = f"block {index + 1}", ", clustered" if index == explanation.block else ""
        upper = (encode_picture_uri(above), f"Attention in {block}", f"Attention, {is_global.sum()} global")
        lower = (encode_picture_uri(below), f"Recovered correlation in {block}", f"Recovered{clustered}")
        groups.append((block.capitalize(), [upper, lower]))
    return _render("blocks", groups, model, notes)


def render_clustering(explanation: Explanation, model: str, notes: Sequence[str] = ()) -> str:
    """Render Figure 3: clusters of patches and their masks, before and after denoising.

    Args:
        explanation, model, notes: as above.
    """
    picture = panels.fit_long_side(explanation.image, _CLUSTER_SIDE)
    before = Grouping(explanation.clusters_before, explanation.masks_before)
    after = Grouping(explanation.clusters, explanation.masks)
    is_global = explanation.global_patches[explanation.block]
    groups = []
    for time, (clusters, masks), patches, regions in denoising_panels(picture, is_global, before, after):
        title, noise = f"{time.capitalize()} denoising", f"{100 * (clusters < 0).mean():.0f} % of the patches are noise"
        left = (encode_picture_uri(patches), f"{title}: clusters", f"{count_labels(clusters)} clusters, {noise}")
        right = (encode_picture_uri(regions), f"{title}: masks", f"{count_labels(masks)} masks")
        groups.append((title, [left, right]))
    return _render("rows", groups, model, notes)


def _render(layout: str, groups: object, model: str, notes: Sequence[str]) -> str:
    """Render groups: titles, and for each picture its data URI, alternative text and caption."""
    return TEMPLATES.get_template("figure.html").render(layout=layout, groups=groups, model=model, notes=notes)
