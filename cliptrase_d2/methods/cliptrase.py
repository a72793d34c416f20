"""CLIPtrase's semantic correlation recovery in the last block (supplement, A.2)."""

from __future__ import annotations

from torch import Tensor

from cliptrase_d2.clip.tokens import ImageTokens
from cliptrase_d2.methods.base import LastBlockAttention, register_method
from cliptrase_d2.methods.self_attention import sum_self_attention

PAPER = "https://arxiv.org/abs/2407.08268"


@register_method("cliptrase")
class CLIPtraseAttention(LastBlockAttention):
    """Replace softmax(q·kᵀ/√d) by the plain sum of the self-correlations of q, k and v. Residual and MLP stay."""

    title = "CLIPtrase, three self-correlations"
    source = PAPER

    def attend(self, x: ImageTokens) -> Tensor:
        """Return Σ softmax(a·aᵀ/√d)·v over a = q, k, v, [B,A,T,d]."""
        query, key, value = x.qkv()
        return sum_self_attention((query, key, value), value)
