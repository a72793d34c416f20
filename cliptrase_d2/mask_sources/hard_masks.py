"""Hard masks as proposals, prompts from clusters, and masks that are merged.

Positions are relative: (x, y) in [0,1] from the top left corner of an image.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_iou, masks_to_boxes

from cliptrase_d2.pipeline.proposals import MaskProposals, cluster_maps

_MERGED_BOX_IOU = 0.2


def make_proposals(assignment: Tensor, masks: int, coarse: tuple[int, int]) -> MaskProposals:
    """Turn hard masks into proposals, whose soft maps are the share of each mask in the cells of a coarser grid.

    Args:
        assignment: [H,W] int64, the mask 0 to Q-1 of every pixel.
        masks: Q.
        coarse: (h', w') of the soft maps, at most the size of the assignment.
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


def find_typical_points(correlation: Tensor, labels: Tensor, grid: tuple[int, int], most: int) -> tuple[Tensor, Tensor]:
    """Return the patches of every cluster that are most similar to the whole cluster, as points at their centres.

    Args:
        correlation: [N,N], one row per patch.
        labels: [N] int64, clusters 0 to Q-1, -1 for noise.
        grid: (h, w) with h·w = N.
        most: points per cluster, P, >= 1; fewer where the cluster has fewer patches.
    Returns:
        [Q,P,2] positions, and [Q,P] bool: whether the point exists.
    """
    maps = cluster_maps(correlation[None], labels[None], grid).maps.flatten(1)  # [Q,N]
    member = labels[None] == torch.arange(len(maps), device=labels.device)[:, None]  # [Q,N]
    similarity, patches = maps.masked_fill(~member, -torch.inf).topk(min(most, len(labels)), dim=1)  # [Q,P]
    positions = torch.stack([(patches % grid[1] + 0.5) / grid[1], (patches // grid[1] + 0.5) / grid[0]], dim=-1)
    return positions, similarity > -torch.inf


def compute_boxes(masks: Tensor) -> Tensor:
    """Return the bounding box of every mask, [Q,H,W] bool to [Q,4]: left, top, right, bottom positions.

    No mask may be empty.
    """
    height, width = masks.shape[1:]
    corners = masks_to_boxes(masks) + torch.tensor([0, 0, 1, 1], device=masks.device)  # right and bottom are exclusive
    return corners / torch.tensor([width, height, width, height], device=masks.device)


def compute_stability(logits: Tensor) -> Tensor:
    """Return the stability of masks: the IoU of their versions with the threshold 0 raised and lowered by 1.

    Args:
        logits: […,H,W].
    Returns:
        […] in [0,1]; 0 where the larger version is empty.
    """
    narrow, wide = (logits > 1).sum((-2, -1)), (logits > -1).sum((-2, -1))
    return narrow / wide.clamp_min(1)


def merge_masks(cropped: Tensor, logits: Tensor, containment: float) -> Tensor:
    """Merge masks into those that contain them, as TextRegion does with the masks of SAM 2.

    A mask takes in every later one whose box has an IoU above 0.2 with its own, and of which more than `containment`
    lies in it: Σ min(a, b) / min(Σ a, Σ b), of the logits with their signs. Masks with a negative sum, which cover a
    small part of the image, are not merged.

    Args:
        cropped: [n,h,w] logits inside the image; no mask is empty.
        logits: [n,m,m], the same with the padding of the model.
        containment: above 0.
    Returns:
        [k,m,m], the largest logits of the masks of every group.
    """
    near = box_iou(*[masks_to_boxes(cropped > 0)] * 2) > _MERGED_BOX_IOU
    flat = cropped.flatten(1)
    sums, groups = flat.sum(1), []
    is_left = torch.ones_like(sums, dtype=torch.bool)
    for index in range(len(cropped)):
        if not is_left[index]:
            continue
        is_left[index] = False
        others = (near[index] & is_left & (sums > 0) & (sums[index] > 0)).nonzero()[:, 0]
        shared = torch.minimum(flat[others], flat[index]).sum(1)
        others = others[shared > containment * torch.minimum(sums[others], sums[index])]
        is_left[others] = False
        groups.append(torch.cat([logits[index : index + 1], logits[others]]).amax(0))
    return torch.stack(groups) if groups else logits


def make_point_grid(side: int) -> Tensor:
    """Return the centres of side·side equal cells, [side²,2], row by row."""
    positions = (torch.arange(side) + 0.5) / side
    return torch.stack([positions.repeat(side), positions.repeat_interleave(side)], dim=1)


def fill_gaps(assignment: Tensor, clusters: MaskProposals) -> tuple[Tensor, int]:
    """Assign the pixels in no mask to their clusters, or to one remainder where there is no cluster.

    Args:
        assignment: [H,W] int64, a mask 0, 1, … of every pixel, or -1 for none.
        clusters: proposals of the same size.
    Returns:
        [H,W] int64 and Q: masks with pixels in their order, then clusters with remaining pixels in theirs.
    """
    first = assignment.max() + 1
    filled = torch.where(assignment < 0, first + clusters.assignment, assignment)
    used, numbered = torch.unique(filled, return_inverse=True)
    return numbered, len(used)
