"""Masks that overlap or leave gaps, made into one assignment of every pixel; and what prompts are read from clusters.

Places are relative: (x, y) in [0,1] from the top left corner of an image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cliptrase_d2.pipeline.proposals import MaskProposals, cluster_maps


def make_proposals(assignment: Tensor, masks: int, coarse: tuple[int, int]) -> MaskProposals:
    """Hard masks as proposals: their soft maps are the share that they have of every cell of a coarser grid.

    Args:
        assignment: [H,W] int64, the mask 0 to Q-1 of every pixel.
        masks: Q.
        coarse: (h', w') of the soft maps, where the assignment is no smaller.
    """
    rows, columns = (min(cells, pixels) for cells, pixels in zip(coarse, assignment.shape, strict=True))
    row, column = (
        torch.arange(pixels, device=assignment.device) * cells // pixels
        for pixels, cells in zip(assignment.shape, (rows, columns), strict=True)
    )
    cell = row[:, None] * columns + column[None]  # [H,W]
    counts = torch.bincount((assignment * (rows * columns) + cell).flatten(), minlength=masks * rows * columns)
    counts = counts.view(masks, rows, columns)  # [Q,h',w']
    return MaskProposals(counts / counts.sum(0), assignment)


def typical_points(correlation: Tensor, labels: Tensor, grid: tuple[int, int], most: int) -> tuple[Tensor, Tensor]:
    """The patches of every cluster that are most alike to all of it, as points in their middle.

    Args:
        correlation: [N,N], one row per patch.
        labels: [N] int64, clusters 0 to Q-1, -1 for noise.
        grid: (h, w) with h·w = N.
        most: points per cluster, P, >= 1; fewer where it has fewer patches.
    Returns:
        [Q,P,2] places, and [Q,P] bool: whether there is such a point.
    """
    maps = cluster_maps(correlation[None], labels[None], grid).maps.flatten(1)  # [Q,N]
    member = labels[None] == torch.arange(len(maps), device=labels.device)[:, None]  # [Q,N]
    likeness, patches = maps.masked_fill(~member, -torch.inf).topk(min(most, len(labels)), dim=1)  # [Q,P]
    places = torch.stack([(patches % grid[1] + 0.5) / grid[1], (patches // grid[1] + 0.5) / grid[0]], dim=-1)
    return places, likeness > -torch.inf


def compute_boxes(assignment: Tensor, masks: int) -> Tensor:
    """The box of every mask's pixels, [Q,4] as left, top, right, bottom places; all NaN for a mask without pixels.

    Args:
        assignment: [H,W] int64, the mask 0 to Q-1 of every pixel.
        masks: Q.
    """
    height, width = assignment.shape
    flat = assignment.flatten()
    row, column = torch.meshgrid(
        torch.arange(height, device=flat.device), torch.arange(width, device=flat.device), indexing="ij"
    )
    edges = []
    for first, last, pixels in ((column, column + 1, width), (row, row + 1, height)):
        for values, reduction in ((first, "amin"), (last, "amax")):
            empty = torch.full((masks,), torch.nan, device=flat.device)
            share = values.flatten().to(empty.dtype) / pixels
            edges.append(empty.scatter_reduce(0, flat, share, reduction, include_self=False))
    left, right, top, bottom = edges
    return torch.stack([left, top, right, bottom], dim=1)


def stability(logits: Tensor) -> Tensor:
    """How little masks change if their threshold of 0 moves by 1: the IoU of the narrow and the wide one.

    Args:
        logits: […,H,W].
    Returns:
        […] in [0,1]; 0 where the wide one is empty.
    """
    narrow, wide = (logits > 1).sum((-2, -1)), (logits > -1).sum((-2, -1))
    return narrow / wide.clamp_min(1)


def point_grid(side: int) -> Tensor:
    """The middles of side·side equal cells, [side²,2], row by row."""
    places = (torch.arange(side) + 0.5) / side
    return torch.stack([places.repeat(side), places.repeat_interleave(side)], dim=1)


def fill_gaps(assignment: Tensor, clusters: MaskProposals) -> tuple[Tensor, int]:
    """Give the pixels of no mask to their clusters, or to one rest where there is no cluster.

    Args:
        assignment: [H,W] int64, a mask 0, 1, … of every pixel, or -1 for none.
        clusters: proposals of the same size.
    Returns:
        [H,W] int64 and Q: masks that have pixels, in their order, then clusters that have some left, in theirs.
    """
    first = assignment.max() + 1
    filled = torch.where(assignment < 0, first + clusters.assignment, assignment)
    used, numbered = torch.unique(filled, return_inverse=True)
    return numbered, len(used)
