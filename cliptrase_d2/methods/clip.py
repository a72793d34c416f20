"""Plain CLIP, read patch by patch."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from cliptrase_d2.clip.tokens import ImageTokens
from cliptrase_d2.methods.base import LastBlockAttention, register_method


@register_method("clip")
class PlainCLIP(LastBlockAttention):
    """Keep the last block as trained. The class token is that of `encode_image`."""

    title = "CLIP as trained"
    source = "https://arxiv.org/abs/2103.00020"

    def attend(self, x: ImageTokens) -> Tensor:
        """Return softmax(q·kᵀ/√d)·v, [B,A,T,d]."""
        return scaled_dot_product_attention(*x.qkv())
