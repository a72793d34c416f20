"""Mask proposals: one soft map per cluster, smoothed, and the pixels that each of them claims.

Source: CLIPtrase supplement, A.2 and Figure 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cliptrase_d2.training_free.bilinear import upsampled_argmax
from cliptrase_d2.training_free.median import median_filter


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


def cluster_maps(correlation: Tensor, labels: Tensor, grid: tuple[int, int]) -> tuple[Tensor, list[int]]:
    """Mean correlation row of every cluster, laid out on the grid.

    Args:
        correlation: [B,N,N], one row per patch.
        labels: [B,N] int64, clusters 0 to Q-1 of each image, -1 for noise.
        grid: (h, w) with h·w = N.
    Returns:
        [ΣQ,h,w], the clusters of one image after those of another, and Q of each; 0 where everything is noise.
    """
    most = labels.amax(1) + 1  # [B]
    counts = most.tolist()
    cluster = torch.arange(max(counts), device=labels.device)
    member = (labels[:, None] == cluster[:, None]).to(correlation.dtype)  # [B,Q,N], Q the most of any image
    maps = torch.bmm(member, correlation) / member.sum(2, keepdim=True)
    return maps[_places(most, sum(counts))].unflatten(1, grid), counts


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
    maps, counts = cluster_maps(correlation, labels, grid)
    enlarged = F.interpolate(maps[:, None], scale_factor=upsample, mode="bilinear", align_corners=False)
    coarse = median_filter(enlarged[:, 0], filter_size)  # [ΣQ,h',w']
    # Images with fewer masks are filled up with some that are nowhere the strongest, and finite to be interpolated.
    lowest = torch.finfo(coarse.dtype).min / 8
    filled = coarse.new_full((len(counts), max(1, *counts), *coarse.shape[1:]), lowest)  # [B,Q,h',w']
    filled[_places(labels.amax(1) + 1, len(coarse))] = coarse
    assignments = upsampled_argmax(filled, size)
    return [MaskProposals(of, where) for of, where in zip(coarse.split(counts), assignments, strict=True)]


def _places(counts: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """Which image each of the masks of all images belongs to, and which of its masks it is; each [ΣQ].

    Args:
        counts: [B] int64, Q of every image.
        total: their sum, which a GPU need not be asked for.
    """
    image = torch.arange(len(counts), device=counts.device).repeat_interleave(counts, output_size=total)
    return image, torch.arange(total, device=counts.device) - (counts.cumsum(0) - counts)[image]
