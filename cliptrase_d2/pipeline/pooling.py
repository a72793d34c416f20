"""Mask average pooling: one feature vector per mask (CLIPtrase supplement, B.3)."""

from __future__ import annotations

import torch
from torch import Tensor


def mask_average_pooling(masks: Tensor, features: Tensor) -> Tensor:
    """Mean feature of each mask, weighted by the mask, MAP(m, f) = Σ m·f / Σ m.

    Args:
        masks: [Q,…] soft or binary weights, at least 0, over the same positions as the features.
        features: […,D] or […,E].
    Returns:
        [Q,D]; the zero vector where a mask is empty.
    Raises:
        ValueError: if masks and features cover different positions.
    """
    if masks.shape[1:] != features.shape[:-1]:
        raise ValueError(
            f"masks cover {tuple(masks.shape[1:])} positions, features {tuple(features.shape[:-1])}; they must agree"
        )
    weights = masks.flatten(1).to(features.dtype)  # [Q,N]
    total = weights.sum(1, keepdim=True)
    pooled = weights @ features.flatten(0, -2)  # [Q,D]
    return torch.where(total > 0, pooled / total.clamp_min(torch.finfo(total.dtype).tiny), 0.0)
