"""Mask proposals: one smoothed soft map per cluster, the assignment of pixels to masks, and features of masks.

Source: CLIPtrase supplement, A.2, Figure 3 and B.3.
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
        clusters: [N] int64, the cluster of every patch, -1 for noise; None for masks that are not clusters.
        is_gap: [H,W] bool, the pixels in no mask of the source, which were assigned to the most fitting one; None for
            none.
    """

    coarse: Tensor
    assignment: Tensor
    clusters: Tensor | None = None
    is_gap: Tensor | None = None

    def __len__(self) -> int:
        return len(self.coarse)

    def regions(self) -> Tensor:
        """Return the mask of every pixel, [H,W] int64, -1 for the pixels in no mask of the source."""
        if not len(self):
            return torch.full_like(self.assignment, -1)
        return self.assignment if self.is_gap is None else self.assignment.masked_fill(self.is_gap, -1)

    def soft_masks(self) -> Tensor:
        """Return the soft maps at output size, [Q,H,W]."""
        size = (self.assignment.shape[0], self.assignment.shape[1])
        if not len(self):
            return self.coarse.new_zeros((0, *size))
        return F.interpolate(self.coarse[None], size, mode="bilinear", align_corners=False)[0]


@dataclass(frozen=True)
class ClusterMaps:
    """Soft maps of the clusters of a batch, image by image.

    Attributes:
        maps: [ΣQ,h,w].
        counts: Q of every image, 0 where all patches are noise.
        image: [ΣQ] int64, index of the image.
        cluster: [ΣQ] int64, index of the cluster in its image, 0 to Q-1.
    """

    maps: Tensor
    counts: list[int]
    image: Tensor
    cluster: Tensor


def cluster_maps(correlation: Tensor, labels: Tensor, grid: tuple[int, int]) -> ClusterMaps:
    """Average the correlation rows of every cluster and arrange them on the grid.

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
    """Turn the clusters of images into masks. Every pixel belongs to one mask, those of noise patches too.

    Args:
        correlation: [B,N,N], one row per patch.
        labels: [B,N] int64, -1 for noise.
        grid: (h, w) with h·w = N.
        size: (H, W) of the output.
        upsample: factor of the first, bilinear enlargement.
        filter_size: odd side of the median filter; 1 for none.
    """
    clusters = cluster_maps(correlation, labels, grid)
    enlarged = F.interpolate(clusters.maps[:, None], scale_factor=upsample, mode="bilinear", align_corners=False)
    coarse = median_filter(enlarged[:, 0], filter_size)  # [ΣQ,h',w']
    # Pad images with fewer masks by maps that never win, yet finite so that they can be interpolated.
    lowest = torch.finfo(coarse.dtype).min / 8
    padded = coarse.new_full((len(clusters.counts), max(1, *clusters.counts), *coarse.shape[1:]), lowest)  # [B,Q,h',w']
    padded[clusters.image, clusters.cluster] = coarse
    images = zip(coarse.split(clusters.counts), upsampled_argmax(padded, size), labels, strict=True)
    return [MaskProposals(*image) for image in images]


def mask_average_pooling(masks: Tensor, features: Tensor) -> Tensor:
    """Return the mean feature of each mask, weighted by the mask, MAP(m, f) = Σ m·f / Σ m (B.3).

    Args:
        masks: [Q,…] soft or binary weights, at least 0, over the same positions as the features.
        features: […,D] or […,E].
    Returns:
        [Q,D]; the zero vector where a mask is empty.
    Raises:
        ValueError: masks and features cover different positions.
    """
    if masks.shape[1:] != features.shape[:-1]:
        raise ValueError(f"masks of shape {tuple(masks.shape)} and features of shape {tuple(features.shape)} disagree")
    weights = masks.flatten(1).to(features.dtype)  # [Q,N]
    total = weights.sum(1, keepdim=True)
    pooled = weights @ features.flatten(0, -2)  # [Q,D]
    return torch.where(total > 0, pooled / total.clamp_min(torch.finfo(total.dtype).tiny), 0.0)
