"""SCLIP: two self-correlations in the last block."""

from __future__ import annotations

from torch import Tensor

from cliptrase_d2.clip.tokens import ImageTokens
from cliptrase_d2.methods.base import LastBlockAttention, register_method
from cliptrase_d2.methods.self_attention import sum_self_attention


@register_method("sclip")
class SCLIP(LastBlockAttention):
    """Sum the self-correlations of q and of k. Residual and MLP stay."""

    title = "SCLIP, two self-correlations"
    source = "https://arxiv.org/abs/2312.01597"

    def attend(self, x: ImageTokens) -> Tensor:
        """Return Σ softmax(a·aᵀ/√d)·v over a = q, k, [B,A,T,d]."""
        query, key, value = x.qkv()
        return sum_self_attention((query, key), value)
