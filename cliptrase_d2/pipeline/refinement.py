"""Pixel-adaptive mask refinement (PAMR): labels spread to neighbours of similar colour and so align with edges.

Not part of CLIPtrase, and off by default. Source: Araslanov & Roth, Single-Stage Semantic Segmentation from Image
Labels, CVPR 2020, Sec. 4 (https://arxiv.org/abs/2005.08104), with the dilations, the number of steps and the factor 0.1
of the authors' release. The published protocol refines logits with other dilations (`refine_maps`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cliptrase_d2.utils.pixel_affinity import pixel_affinity, propagate

REFINEMENTS = ("none", "pamr")
_VALUES_AT_ONCE = 2**20  # of the maps that are propagated together


@dataclass(frozen=True)
class ClassShares:
    """Refined shares of the classes at each pixel.

    Attributes:
        classes: [K] int64, ascending, the classes of the unrefined labels.
        shares: [K,H,W] in [0,1], with sum 1 at every pixel.
    """

    classes: Tensor
    shares: Tensor

    @property
    def label_map(self) -> Tensor:
        """The class of the largest share at every pixel, [H,W] int64."""
        return self.classes[self.shares.argmax(0)]

    def to_scores(self, classes: int) -> Tensor:
        """Return the shares of all C classes, [C,H,W], 0 for absent ones. Their argmax is the label map."""
        scores = self.shares.new_zeros((classes, *self.shares.shape[1:]))
        return scores.index_copy_(0, self.classes, self.shares)


def pamr(labels: Tensor, image: Tensor, steps: int = 10, values_at_once: int = _VALUES_AT_ONCE) -> ClassShares:
    """Refine a label map by the colours of its image.

    Only the classes of the label map are propagated, one map each, in chunks. Besides the result, memory holds the
    affinities, 48·H·W numbers, and a few times `values_at_once`, for any number of classes.

    Args:
        labels: [H,W] int64, at least 0.
        image: [3,H,W] of any range. Differences are measured in local standard deviations.
        steps: rounds, >= 0; with 0 the labels stay.
        values_at_once: bound on the values of the maps in one chunk, which has at least one map.
    """
    classes = labels.unique()
    affinity = pixel_affinity(image)
    chunk = max(1, values_at_once // labels.numel())
    shares = [propagate((labels == part[:, None, None]).float(), affinity, steps) for part in classes.split(chunk)]
    return ClassShares(classes, torch.cat(shares))


def refine_maps(
    maps: Tensor, image: Tensor, steps: int, dilations: Sequence[int], values_at_once: int = _VALUES_AT_ONCE
) -> Tensor:
    """Refine maps of real numbers, such as logits, by the colours of their image, in place.

    Args:
        maps: [R,H,W] float32.
        image: [3,H,W] of any range.
        steps: rounds, >= 0.
        dilations: distances of the neighbours in pixels, eight neighbours at each.
        values_at_once: bound on the values of the maps in one chunk, which has at least one map.
    Returns:
        `maps`.
    """
    affinity = pixel_affinity(image, dilations)
    for part in maps.split(max(1, values_at_once // maps[0].numel())):
        part.copy_(propagate(part, affinity, steps, dilations))
    return maps
