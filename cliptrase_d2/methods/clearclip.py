"""ClearCLIP: queries with queries, without residual connection and MLP."""

from __future__ import annotations

from torch import Tensor

from cliptrase_d2.clip.tokens import ImageTokens
from cliptrase_d2.methods.base import LastBlockAttention, register_method
from cliptrase_d2.methods.self_attention import sum_self_attention


@register_method("clearclip")
class ClearCLIP(LastBlockAttention):
    """Keep only the self-correlation of q, as the published code does: no residual connection, no MLP.

    The published code's other attentions are `clip`, `maskclip` and `sclip` with the options ``residual`` and ``mlp``.

    Args:
        residual, mlp, blocks: see `LastBlockAttention`.
    """

    title = "ClearCLIP, queries with queries, no residual, no MLP"
    source = "https://arxiv.org/abs/2407.12442"
    residual = False
    mlp = False

    def attend(self, x: ImageTokens) -> Tensor:
        """Return softmax(q·qᵀ/√d)·v, [B,A,T,d]."""
        query, _, value = x.qkv()
        return sum_self_attention((query,), value)
