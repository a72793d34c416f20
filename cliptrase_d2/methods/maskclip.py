"""MaskCLIP: every token keeps its own value."""

from __future__ import annotations

from torch import Tensor

from cliptrase_d2.clip.tokens import ImageTokens
from cliptrase_d2.methods.base import LastBlockAttention, register_method


@register_method("maskclip")
class MaskCLIP(LastBlockAttention):
    """Replace the attention matrix of the last block by the identity."""

    title = "MaskCLIP, values only"
    source = "https://arxiv.org/abs/2112.01071"

    def attend(self, x: ImageTokens) -> Tensor:
        """Return v, [B,A,T,d]."""
        return x.qkv()[2]
