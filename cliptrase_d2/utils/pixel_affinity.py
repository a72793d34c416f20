"""Affinity of pixels to their neighbours by colour, and propagation of maps along it (PAMR).

Source: Araslanov & Roth, Single-Stage Semantic Segmentation from Image Labels, CVPR 2020, Sec. 4
(https://arxiv.org/abs/2005.08104), with the factor 0.1 of the authors' release.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

DILATIONS = (1, 2, 4, 8, 12, 24)  # pixels, those of the release; eight neighbours at each
_SHARPNESS = 0.1  # colour differences are divided by this part of the local standard deviation
_EPSILON = 1e-8  # avoids 0/0 in flat areas
_MANY_MAPS = 8  # from here on `_propagate_many` is faster, up to five times on a CPU; its memory is 2·K·H·W numbers


def pixel_affinity(image: Tensor, dilations: Sequence[int] = DILATIONS) -> Tensor:
    """Return the weight of each of a pixel's K = 8·len(dilations) neighbours, a softmax over them.

    Its logit is minus the mean over the channels of |x_i - x_j| / (0.1·σ_i). σ_i is the standard deviation (n-1) of
    the channel over the 3×3 windows of all dilations around i, each of which contains i once. The border is replicated.

    Args:
        image: [3,H,W] of any range. Differences are measured in local standard deviations.
        dilations: distances of the neighbours in pixels, at least 1.
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
        affinity: [K,H,W], of `pixel_affinity` with the same dilations.
        steps: rounds, >= 0.
        dilations: distances of the neighbours in pixels.
    Returns:
        [Q,H,W].
    """
    if len(maps) >= _MANY_MAPS:
        return _propagate_many(maps, affinity, steps, dilations)
    for _ in range(steps):
        mixed = torch.zeros_like(maps)
        for neighbour, weight in zip(_shift_to_neighbours(maps, dilations), affinity, strict=True):
            mixed.addcmul_(neighbour, weight)
        maps = mixed
    return maps


def _propagate_many(maps: Tensor, affinity: Tensor, steps: int, dilations: Sequence[int]) -> Tensor:
    """Compute `propagate` pixel by pixel with all maps side by side, which reads and writes each map once a step."""
    height, width = maps.shape[1:]
    index = torch.arange(height * width, dtype=torch.int32, device=maps.device).view(1, height, width)
    neighbours = torch.cat(list(_shift_to_neighbours(index, dilations))).flatten(1).T.contiguous()  # [H·W,K]
    weights = affinity.flatten(1).T.contiguous()  # [H·W,K]
    values = maps.flatten(1).T.contiguous()  # [H·W,Q]
    for _ in range(steps):
        values = F.embedding_bag(neighbours, values, per_sample_weights=weights, mode="sum")
    return values.T.unflatten(1, (height, width))


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
