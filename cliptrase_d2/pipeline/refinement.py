"""Pixel-adaptive mask refinement (PAMR): labels spread to neighbours of similar colour and so align with edges.

Not part of CLIPtrase, and off by default. Source: Araslanov & Roth, Single-Stage Semantic Segmentation from Image
Labels, CVPR 2020, Sec. 4 (https://arxiv.org/abs/2005.08104), with the dilations, the number of steps and the factor 0.1
of the authors' release. The published protocol refines logits with other dilations (`refine_maps`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

REFINEMENTS = ("none", "pamr")
DILATIONS = (1, 2, 4, 8, 12, 24)  # pixels; eight neighbours at each
_SHARPNESS = 0.1  # colour differences are divided by this part of the local standard deviation
_EPSILON = 1e-8  # avoids 0/0 in flat areas
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


def pixel_affinity(image: Tensor, dilations: Sequence[int] = DILATIONS) -> Tensor:
    """Return the weight of each of a pixel's K neighbours, a softmax over them.

    Its logit is minus the mean over the channels of |x_i - x_j| / (0.1·σ_i). σ_i is the standard deviation (n-1) of
    the channel over the 3×3 windows of all dilations around i, each of which contains i once. The border is replicated.

    Args:
        image: [3,H,W].
        dilations: distances of the neighbours in pixels; K is eight times their number.
    Returns:
        [K,H,W] float32, in [0,1], with sum 1 at every pixel. In flat areas all neighbours have the same weight.
    """
    image = image.float()
    total, squares = torch.zeros_like(image), torch.zeros_like(image)
    count = 0
    for neighbour in _shift_to_neighbours(image, dilations):
        # Deviations from the pixel, which itself adds 0 to both sums, keep the difference of squares accurate enough.
        difference = neighbour - image
        total += difference
        squares += difference.square()
        count += 1
    values = count + len(dilations)
    deviation = ((squares - total.square() / values) / (values - 1)).clamp_min(0).sqrt()  # [3,H,W]
    scale = _EPSILON + _SHARPNESS * deviation
    neighbours = _shift_to_neighbours(image, dilations)
    return torch.stack([-((neighbour - image).abs() / scale).mean(0) for neighbour in neighbours]).softmax(0)


def propagate(maps: Tensor, affinity: Tensor, steps: int, dilations: Sequence[int] = DILATIONS) -> Tensor:
    """Replace every value by the affinity-weighted mean of its neighbours, `steps` times.

    Args:
        maps: [Q,H,W] float32.
        affinity: [K,H,W], of `pixel_affinity`.
        steps: rounds, >= 0.
        dilations: those of the affinity.
    Returns:
        [Q,H,W].
    """
    for _ in range(steps):
        mixed = torch.zeros_like(maps)
        for neighbour, weight in zip(_shift_to_neighbours(maps, dilations), affinity, strict=True):
            mixed.addcmul_(neighbour, weight)
        maps = mixed
    return maps


def _shift_to_neighbours(planes: Tensor, dilations: Sequence[int]) -> Iterator[Tensor]:
    """Yield [Q,H,W] shifted to each of the K neighbours, as views of one padded copy, dilation by dilation."""
    height, width = planes.shape[1:]
    margin = max(dilations)
    padded = F.pad(planes[None], [margin] * 4, mode="replicate")[0]  # [Q,H+2·margin,W+2·margin]
    for dilation in dilations:
        offsets = (margin - dilation, margin, margin + dilation)
        for top in offsets:
            for left in offsets:
                if (top, left) != (margin, margin):
                    yield padded[:, top : top + height, left : left + width]
