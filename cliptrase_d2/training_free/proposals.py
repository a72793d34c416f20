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


def cluster_maps(correlation: Tensor, labels: Tensor, grid: tuple[int, int]) -> Tensor:
    """Mean correlation row of every cluster, laid out on the grid.

    Args:
        correlation: [N,N], one row per patch.
        labels: [N] int64, clusters 0 to Q-1, -1 for noise.
        grid: (h, w) with h·w = N.
    Returns:
        [Q,h,w]; Q is 0 where everything is noise.
    """
    count = int(labels.max()) + 1
    member = (labels[None] == torch.arange(count, device=labels.device)[:, None]).to(correlation.dtype)  # [Q,N]
    return (member @ correlation / member.sum(1, keepdim=True)).view(count, *grid)  # [Q,h,w]


def propose_masks(
    correlation: Tensor,
    labels: Tensor,
    grid: tuple[int, int],
    size: tuple[int, int],
    *,
    upsample: int = 4,
    filter_size: int = 7,
) -> MaskProposals:
    """Turn the clusters of one image into masks that cover every pixel once, noise patches too.

    Args:
        correlation: [N,N], one row per patch.
        labels: [N] int64, -1 for noise.
        grid: (h, w) with h·w = N.
        size: (H, W) of the output.
        upsample: factor of the first, bilinear enlargement.
        filter_size: odd side of the median filter; 1 for none.
    """
    maps = cluster_maps(correlation, labels, grid)
    if not len(maps):
        nowhere = torch.zeros(size, dtype=torch.int64, device=labels.device)
        return MaskProposals(maps, nowhere)
    enlarged = F.interpolate(maps[None], scale_factor=upsample, mode="bilinear", align_corners=False)[0]
    smooth = median_filter(enlarged, filter_size)
    return MaskProposals(smooth, upsampled_argmax(smooth[None], size)[0])
