"""Semantic correlation recovery: the similarity of patches, without global patches.

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
    """Return the mean similarity of every two tokens under q, k and v (Eq. 1-3; Eq. 4-6 with concatenated heads).

    The sum of cosines over heads is one inner product of the concatenated unit vectors of a token. One matrix product
    per branch therefore replaces the A products of the equations.

    Args:
        query, key, value: [B,A,T,d] of one block, T = N+1 tokens.
        measure: "cosine", in [-1,1], or "inner_product" (the ablation of Table 1), unbounded.
        heads: "separate" for one cosine per head, "concatenated" for one cosine over all heads.
    Returns:
        [B,T,T] float32.
    """
    by_token = [branch.transpose(1, 2).float() for branch in (query, key, value)]  # each [B,T,A,d]
    batch, tokens, head_count, _ = by_token[0].shape
    if heads == "concatenated":
        by_token = [vectors.flatten(2) for vectors in by_token]  # [B,T,E]
    if measure == "cosine":
        by_token = [F.normalize(vectors, dim=-1) for vectors in by_token]
    scale = 1 / (3 * (head_count if heads == "separate" else 1))
    correlation = query.new_zeros((batch, tokens, tokens), dtype=torch.float32)
    with torch.autocast(query.device.type, enabled=False):
        for vectors in by_token:
            rows = vectors.reshape(batch, tokens, -1)  # [B,T,E]
            correlation.baddbmm_(rows, rows.mT, alpha=scale)
    return correlation


def suppress_global_patches(correlation: Tensor) -> Tensor:
    """Subtract the class token's row from the rows of all patches, R = max(0, S[1:,1:] - S[0,1:]) (A.1, denoising).

    All tokens are similar to global patches, and so is the class token. Its row removes them from the other rows.

    Args:
        correlation: [B,N+1,N+1], token 0 is the class token.
    Returns:
        [B,N,N], at least 0, one row per patch.
    """
    return (correlation[:, 1:, 1:] - correlation[:, :1, 1:]).clamp_min(0)


def patch_correlation(correlation: Tensor) -> Tensor:
    """Return the patch rows unchanged, [B,N+1,N+1] to [B,N,N] (the ablation without denoising)."""
    return correlation[:, 1:, 1:]
