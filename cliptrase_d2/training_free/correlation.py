"""Semantic correlation recovery: how alike two patches are, and what every patch is alike to.

Source: CLIPtrase supplement, A.1 (global patches) and A.2 (correlation, Eq. 1-6).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MEASURES = ("cosine", "inner_product")
HEADS = ("separate", "concatenated")


def self_correlation(
    query: Tensor, key: Tensor, value: Tensor, *, measure: str = "cosine", heads: str = "separate"
) -> Tensor:
    """Mean similarity of every two tokens under q, k and v (Eq. 1-3; Eq. 4-6 with concatenated heads).

    The mean of the cosines over branches and heads is one inner product of all the normalised vectors
    laid end to end, so one matrix product does what the equations write as 3·A of them.

    Args:
        query, key, value: [B,A,T,d] of one block, T = N+1 tokens.
        measure: "cosine", in [-1,1], or "inner_product" (the ablation of Table 1), unbounded.
        heads: "separate", every head has its own cosine, or "concatenated", one cosine over all heads.
    Returns:
        [B,T,T] float32.
    """
    branches = torch.stack([query, key, value], dim=2).float()  # [B,A,3,T,d]
    batch, head_count, branch_count, tokens, _ = branches.shape
    vectors = branches.permute(0, 3, 2, 1, 4)  # [B,T,3,A,d]
    if heads == "concatenated":
        vectors = vectors.flatten(3)  # [B,T,3,E]
    if measure == "cosine":
        vectors = F.normalize(vectors, dim=-1)
    terms = branch_count * (head_count if heads == "separate" else 1)
    vectors = vectors.reshape(batch, tokens, -1)  # [B,T,3·E]
    with torch.autocast(query.device.type, enabled=False):
        return torch.bmm(vectors, vectors.transpose(1, 2)) / terms


def suppress_global_patches(correlation: Tensor) -> Tensor:
    """Take away what every patch is alike to, R = max(0, S[1:,1:] - S[0,1:]) (A.1, denoising).

    Global patches are columns that every row finds similar, the class token's row too; so this row,
    taken from each patch's row, removes them.

    Args:
        correlation: [B,N+1,N+1], token 0 is the class token.
    Returns:
        [B,N,N], at least 0: one row per patch.
    """
    return (correlation[:, 1:, 1:] - correlation[:, :1, 1:]).clamp_min(0)


def patch_correlation(correlation: Tensor) -> Tensor:
    """The patch rows as they are, [B,N+1,N+1] -> [B,N,N] (the ablation without denoising)."""
    return correlation[:, 1:, 1:]
