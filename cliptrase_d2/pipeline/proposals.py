"""Mask proposals: one soft map per cluster, smoothed, and the pixels that each of them claims.

Source: CLIPtrase supplement, A.2 and Figure 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cliptrase_d2.pipeline.median import median_filter
from cliptrase_d2.pipeline.upsample import upsampled_argmax


@dataclass(frozen=True)
class MaskProposals:
    """The masks of one image.

    Attributes:
        coarse: [Q,h',w'] smoothed soft maps, at least 0, at `upsample` times the grid.
        assignment: [H,W] int64, the mask 0 to Q-1 of every pixel; all zero where Q is 0.
    """

    coarse: Tensor
    assignment: Tensor

    def __len__(self) -> int:
        return len(self.coarse)

    def soft_masks(self) -> Tensor:
        """The soft maps at output size, [Q,H,W]."""
        size = (self.assignment.shape[0], self.assignment.shape[1])
        if not len(self):
            return self.coarse.new_zeros((0, *size))
        return F.interpolate(self.coarse[None], size, mode="bilinear", align_corners=False)[0]


@dataclass(frozen=True)
class ClusterMaps:
    """What the clusters of images look like, those of one image after those of another.

    Attributes:
        maps: [ΣQ,h,w].
        counts: Q of every image, 0 where everything is noise.
        image: [ΣQ] int64, the image of a cluster.
        cluster: [ΣQ] int64, which of its image's clusters it is, 0 to Q-1.
    """

    maps: Tensor
    counts: list[int]
    image: Tensor
    cluster: Tensor


def cluster_maps(correlation: Tensor, labels: Tensor, grid: tuple[int, int]) -> ClusterMaps:
    """Mean correlation row of every cluster, laid out on the grid.

    Args:
        correlation: [B,N,N], one row per patch.
        labels: [B,N] int64, clusters 0 to Q-1 of each image, -1 for noise.
        grid: (h, w) with h·w = N.
    """
    most = labels.amax(1) + 1  # [B]
    counts = most.tolist()
    every = torch.arange(max(counts), device=labels.device)
    member = (labels[:, None] == every[:, None]).to(correlation.dtype)  # [B,Q,N], Q the most of any image
    maps = torch.bmm(member, correlation) / member.sum(2, keepdim=True)
    place, ends = torch.arange(sum(counts), device=labels.device), most.cumsum(0)  # [ΣQ], [B]
    image = torch.searchsorted(ends, place, right=True)
    cluster = place - (ends - most)[image]
    return ClusterMaps(maps[image, cluster].unflatten(1, grid), counts, image, cluster)


def propose_masks(
    correlation: Tensor,
    labels: Tensor,
    grid: tuple[int, int],
    size: tuple[int, int],
    *,
    upsample: int = 4,
    filter_size: int = 7,
) -> list[MaskProposals]:
    """Turn the clusters of images into masks that cover every pixel once, noise patches too.

    Args:
        correlation: [B,N,N], one row per patch.
        labels: [B,N] int64, -1 for noise.
        grid: (h, w) with h·w = N.
        size: (H, W) of the output.
        upsample: factor of the first, bilinear enlargement.
        filter_size: odd side of the median filter; 1 for none.
    """
    of = cluster_maps(correlation, labels, grid)
    enlarged = F.interpolate(of.maps[:, None], scale_factor=upsample, mode="bilinear", align_corners=False)
    coarse = median_filter(enlarged[:, 0], filter_size)  # [ΣQ,h',w']
    # Images with fewer masks are filled up with some that are nowhere the strongest, and finite to be interpolated.
    lowest = torch.finfo(coarse.dtype).min / 8
    filled = coarse.new_full((len(of.counts), max(1, *of.counts), *coarse.shape[1:]), lowest)  # [B,Q,h',w']
    filled[of.image, of.cluster] = coarse
    assignments = upsampled_argmax(filled, size)
    return [MaskProposals(soft, where) for soft, where in zip(coarse.split(of.counts), assignments, strict=True)]
