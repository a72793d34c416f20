"""Label maps of regions: their size, their numbers, and regions that look alike.

A value below 0 stands for pixels in no region.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

NO_REGION = -1


def resize_regions(regions: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize label maps [B,H,W] int64 to [B,H',W']: pixel i has the value of pixel ⌊i·H/H'⌋."""
    # float64 holds all values. The index is computed as in the published code.
    return F.interpolate(regions[:, None].double(), size, mode="nearest")[:, 0].long()


def mark_smallest(regions: Tensor) -> Tensor:
    """Replace the smallest value of every label map [B,M] by NO_REGION."""
    return regions.masked_fill(regions == regions.amin(1, keepdim=True), NO_REGION)


def number_regions(regions: Tensor) -> Tensor:
    """Number the values of every label map [B,…] 0, 1, … in rising order; NO_REGION is a value too."""
    ordered, order = regions.flatten(1).sort(1)
    is_next = F.pad(ordered[:, 1:] != ordered[:, :-1], (1, 0))
    return torch.empty_like(order).scatter_(1, order, is_next.cumsum(1)).view_as(regions)


def mark_regions(regions: Tensor) -> Tensor:
    """Return the patches of every region, [B,N] int64 from 0 to K-1, to [B,K,N] bool. K is the most of any image."""
    return regions[:, None] == torch.arange(int(regions.max()) + 1, device=regions.device)[:, None]


def merge_regions(regions: Tensor, features: Tensor, eps: float) -> Tensor:
    """Merge regions that look alike, [M] int64 to [M] int64. A merged region has the smallest of its numbers.

    Two regions look alike if the cosine of their mean features is at most `eps` below the largest cosine of all pairs,
    those of a region with itself included. Regions that such pairs connect are merged, as by DBSCAN with min_samples 1.

    Args:
        regions: the region of every patch, NO_REGION for none.
        features: [M,F].
        eps: see above, ≥ 0.
    """
    values, index = regions.unique(return_inverse=True)  # rising
    is_region = values != NO_REGION
    if is_region.sum() < 2:
        return regions
    patches = (index == torch.arange(len(values), device=index.device)[:, None])[is_region].to(features)  # [n,M]
    means = F.normalize(patches @ features / patches.sum(1, keepdim=True), dim=-1)
    cosines = means @ means.T
    is_connected = (cosines.max() - cosines <= eps).fill_diagonal_(True)  # [n,n]; rounding may differ on the diagonal
    for _ in range(len(means).bit_length()):  # twice as many steps each time
        is_connected = (is_connected.float() @ is_connected.float()) > 0
    merged = values.clone()
    merged[is_region] = values[is_region][is_connected.int().argmax(1)]  # the first of its component
    return merged[index]
