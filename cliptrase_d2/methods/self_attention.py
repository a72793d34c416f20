"""Attention of tokens with themselves: the sum of softmax(a·aᵀ/√d)·v over some branches a of a block."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def sum_self_attention(branches: Iterable[Tensor], value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return Σ softmax(a·aᵀ/√d)·v over the branches a.

    Each branch is one fused call, so no T×T matrix is kept. Their sum equals applying the summed matrix to v.

    Args:
        branches: each [B,A,T,d].
        value: [B,A,T,d].
        mask: [B,1,T,T] bool, which tokens attend to which; None for all to all.
    Returns:
        [B,A,T,d].
    """
    first, *others = (scaled_dot_product_attention(branch, branch, value, attn_mask=mask) for branch in branches)
    return sum(others, first)
