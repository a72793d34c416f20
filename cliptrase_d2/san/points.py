"""Masks at points: reading them, and choosing points where a mask is unsure (PointRend, arXiv 1912.08193)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def sample_points(masks: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of maps at points; beyond the border a map is 0, which shows within half a pixel of it.

    Args:
        masks: [M,H,W].
        points: [M,P,2] or [1,P,2] in [0,1], x before y; (0, 0) and (1, 1) are corners of the map.
    Returns:
        [M,P]
    """
    if not len(masks):
        return masks.new_zeros(0, points.shape[1])
    if len(points) == 1 and len(masks) > 1:  # one set of points: the maps are the channels of one picture
        return F.grid_sample(masks[None], 2 * points[:, None] - 1, align_corners=False)[0, :, 0]
    return F.grid_sample(masks[:, None], 2 * points[:, :, None] - 1, align_corners=False)[:, 0, :, 0]


@torch.no_grad()
def uncertain_points(logits: Tensor, count: int, oversample: float, importance: float) -> Tensor:
    """Points of each mask, most of them where it is least sure.

    Args:
        logits: [M,h,w].
        count: P, points of each mask.
        oversample: how many times as many candidates are drawn, >= 1.
        importance: share of the points, in [0,1], that are the least sure candidates; the others are uniform.
    Returns:
        [M,P,2] in [0,1], x before y.
    """
    masks, device = len(logits), logits.device
    candidates = torch.rand(masks, int(count * oversample), 2, device=device)
    unsure = int(importance * count)
    doubt = -sample_points(logits, candidates).abs()  # [M,P·oversample]
    chosen = doubt.topk(unsure, dim=1).indices  # [M,unsure]
    least_sure = candidates.gather(1, chosen[..., None].expand(-1, -1, 2))
    return torch.cat([least_sure, torch.rand(masks, count - unsure, 2, device=device)], dim=1)
