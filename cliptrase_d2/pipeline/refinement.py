"""Pixel-adaptive mask refinement (PAMR): labels flow to neighbours of a like colour, and so snap to edges.

No part of CLIPtrase, and off by default. Source: Araslanov & Roth, Single-Stage Semantic Segmentation from Image
Labels, CVPR 2020, Sec. 4 (https://arxiv.org/abs/2005.08104), with the dilations, the rounds and the 0.1 of the
authors' release.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

REFINEMENTS = ("none", "pamr")
DILATIONS = (1, 2, 4, 8, 12, 24)  # pixels; eight neighbours at each
_SHARPNESS = 0.1  # a colour difference counts in tenths of the local standard deviation
_NEVER_ZERO = 1e-8  # keeps a flat place finite: all its differences are 0 too
_VALUES_AT_ONCE = 2**20  # of the maps that are propagated together


@dataclass(frozen=True)
class ClassShares:
    """How much of every pixel's neighbourhood belongs to which class.

    Attributes:
        classes: [K] int64, ascending: the classes that the labels held before.
        shares: [K,H,W] in [0,1], their sum 1 at every pixel.
    """

    classes: Tensor
    shares: Tensor

    @property
    def label_map(self) -> Tensor:
        """The class of the largest share at every pixel, [H,W] int64."""
        return self.classes[self.shares.argmax(0)]

    def of_all(self, classes: int) -> Tensor:
        """The shares of all C classes, [C,H,W], 0 for those that are not there; their argmax is the label map."""
        everywhere = self.shares.new_zeros((classes, *self.shares.shape[1:]))
        return everywhere.index_copy_(0, self.classes, self.shares)


def pamr(labels: Tensor, image: Tensor, steps: int = 10, values_at_once: int = _VALUES_AT_ONCE) -> ClassShares:
    """Refine a label map by the colours of its image.

    Only classes that occur are propagated, one map each, a few at a time: beyond the result the memory is that of the
    affinities, 48·H·W numbers, and of some times `values_at_once`, for any number of classes.

    Args:
        labels: [H,W] int64, at least 0.
        image: [3,H,W] of any range, for differences are measured in local standard deviations.
        steps: rounds, >= 0; with 0 the labels stay.
        values_at_once: bound on the numbers of the maps that are propagated together, as far as one map allows.
    """
    classes = labels.unique()
    affinity = pixel_affinity(image)
    chunk = max(1, values_at_once // labels.numel())
    shares = [propagate((labels == part[:, None, None]).float(), affinity, steps) for part in classes.split(chunk)]
    return ClassShares(classes, torch.cat(shares))


def pixel_affinity(image: Tensor) -> Tensor:
    """How much every pixel listens to each of its 48 neighbours: a softmax over them.

    Its logit is minus the mean over the channels of |x_i - x_j| / (0.1·σ_i). σ_i is the standard deviation (n-1) of
    the channel over the 3×3 windows of all dilations around i, which hold i once each. Beyond the border the image
    goes on as its last pixel.

    Args:
        image: [3,H,W].
    Returns:
        [48,H,W] float32, in [0,1], its sum 1 at every pixel; a flat place listens to all neighbours alike.
    """
    image = image.float()
    total, squares = torch.zeros_like(image), torch.zeros_like(image)
    count = 0
    for neighbour in _neighbours(image):
        # Deviations from the pixel itself, which adds nothing to the sums, keep the difference of squares exact enough.
        difference = neighbour - image
        total += difference
        squares += difference.square()
        count += 1
    values = count + len(DILATIONS)
    deviation = ((squares - total.square() / values) / (values - 1)).clamp_min(0).sqrt()  # [3,H,W]
    scale = _NEVER_ZERO + _SHARPNESS * deviation
    logits = torch.stack([-((neighbour - image).abs() / scale).mean(0) for neighbour in _neighbours(image)])
    return logits.softmax(0)


def propagate(maps: Tensor, affinity: Tensor, steps: int) -> Tensor:
    """Replace every value by the mean of its neighbours, weighted by affinity, again and again.

    Args:
        maps: [Q,H,W] float32.
        affinity: [48,H,W], as `pixel_affinity` gives it.
        steps: rounds, >= 0.
    Returns:
        [Q,H,W]
    """
    for _ in range(steps):
        mixed = torch.zeros_like(maps)
        for neighbour, weight in zip(_neighbours(maps), affinity, strict=True):
            mixed.addcmul_(neighbour, weight)
        maps = mixed
    return maps


def _neighbours(planes: Tensor) -> Iterator[Tensor]:
    """[Q,H,W] as each of the 48 neighbours sees it: views of one padded copy, row by row of every dilation's ring."""
    height, width = planes.shape[1:]
    margin = max(DILATIONS)
    padded = F.pad(planes[None], [margin] * 4, mode="replicate")[0]  # [Q,H+2·margin,W+2·margin]
    for dilation in DILATIONS:
        places = (margin - dilation, margin, margin + dilation)
        for top in places:
            for left in places:
                if (top, left) != (margin, margin):
                    yield padded[:, top : top + height, left : left + width]
