"""GEM: self-self attention beside the last blocks of CLIP."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from cliptrase_d2.clip.tokens import QKV, DenseFeatures, ImageTokens, Needs
from cliptrase_d2.methods.base import DenseMethod, register_method


@register_method("gem")
class GEM(DenseMethod):
    """Add up self-self attention over the last blocks. CLIP's own path stays as trained and does not see the sum.

    Args:
        depth: number of blocks, counted from the last; more than the tower has means all.
    """

    title = "GEM, self-self attention beside the last seven blocks"
    source = "https://arxiv.org/abs/2312.00878"

    def __init__(self, depth: int = 7):
        self.depth = depth
        self.needs = Needs(hidden_states=range(-depth, 0), qkv=range(-depth, 0))

    def __call__(self, x: ImageTokens) -> DenseFeatures:
        """Compute the dense features of a batch."""
        first = max(0, x.depth - self.depth)
        dense = x.hidden_state(first)  # [B,T,E]
        for block in range(first, x.depth):
            attended = self_self_attention(x.qkv(block), x.normalize_input(block))
            dense = x.finish_block(attended, x=dense, block=block, mlp=False)
        return x.to_features(dense)


def self_self_attention(qkv: QKV, tokens: Tensor) -> Tensor:
    """Return the mean of the self-attentions of unit-length q, k and v, each after one round of clustering.

    The temperature follows the image: 1/τ is the mean length of its tokens divided by √d.

    Args:
        qkv: each [B,A,T,d].
        tokens: [B,T,E], the tokens that q, k and v were projected from.
    Returns:
        [B,A,T,d].
    """
    value = qkv[2]
    lengths = tokens.norm(dim=-1).mean(-1)  # [B]
    root = (lengths / math.sqrt(value.shape[-1])).sqrt()[:, None, None, None].to(value.dtype)
    total = torch.zeros_like(value)
    for branch in qkv:
        unit = F.normalize(branch, dim=-1)
        clustered = F.normalize(F.scaled_dot_product_attention(root * unit, root * unit, unit, scale=1.0), dim=-1)
        total = total + F.scaled_dot_product_attention(root * clustered, root * clustered, value, scale=1.0)
    return total / 3
