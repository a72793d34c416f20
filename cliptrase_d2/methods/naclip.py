"""NACLIP: keys with keys, weighted towards neighbouring patches."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cliptrase_d2.clip.tokens import ImageTokens
from cliptrase_d2.methods.base import LastBlockAttention, register_method
from cliptrase_d2.methods.self_attention import sum_self_attention
from cliptrase_d2.utils.errors import check_range


@register_method("naclip")
class NACLIP(LastBlockAttention):
    """Add a Gaussian ω of the distance between patches to k·kᵀ/√d. No residual connection, no MLP.

    The published code's architecture "vanilla" keeps both, its "reduced" none.

    Args:
        attention: "naclip", softmax(k·kᵀ/√d + ω); "kk", without ω; "nonly", softmax(c·ω) with the mean c of
            ‖q_i‖·‖k_j‖/√d over all pairs of tokens and heads of the image; "csa", the sum of the self-attentions of q
            and of k, as SCLIP; "vanilla", softmax(q·kᵀ/√d).
        deviation: standard deviation of the Gaussian, in patches, > 0.
        residual, mlp, blocks: see `LastBlockAttention`.
    """

    title = "NACLIP, keys with keys and with neighbours, no residual, no MLP"
    source = "https://arxiv.org/abs/2404.08181"
    residual = False
    mlp = False

    def __init__(
        self,
        attention: Literal["naclip", "kk", "nonly", "csa", "vanilla"] = "naclip",
        deviation: float = 5.0,
        residual: bool | None = None,
        mlp: bool | None = None,
        blocks: int = 1,
    ):
        super().__init__(residual, mlp, blocks)
        check_range("deviation", deviation, 0 < deviation < math.inf, "a number above 0")
        self.attention, self.deviation = attention, deviation

    def attend(self, x: ImageTokens) -> Tensor:
        """Return the attention's weights times v, [B,A,T,d]."""
        query, key, value = x.qkv()
        if self.attention == "vanilla":
            return F.scaled_dot_product_attention(query, key, value)
        if self.attention in ("kk", "csa"):
            return sum_self_attention((query, key) if self.attention == "csa" else (key,), value)
        nearness = gaussian_neighbourhood(x.grid, self.deviation).to(key)  # [T,T]
        if self.attention == "naclip":
            return F.scaled_dot_product_attention(key, key, value, attn_mask=nearness)
        lengths = query.norm(dim=-1).mean(-1) * key.norm(dim=-1).mean(-1)  # [B,A]
        scale = lengths.mean(1) / math.sqrt(key.shape[-1])  # [B]
        weights = (scale[:, None, None] * nearness).softmax(-1)  # [B,T,T]
        return (weights @ value.transpose(1, 2).flatten(2)).unflatten(2, (value.shape[1], -1)).transpose(1, 2)


def gaussian_neighbourhood(grid: tuple[int, int], deviation: float) -> Tensor:
    """Return exp(-distance²/2σ²) of every two patches, [N+1,N+1] in [0,1]; 0 in the class token's row and column.

    Args:
        grid: (h, w) with h·w = N.
        deviation: σ, in patches.
    """
    rows, columns = (_gaussian_of_differences(side, deviation) for side in grid)  # [h,h], [w,w]
    # torch.kron would keep the grid of the trace in an ONNX export.
    patches = (rows[:, None, :, None] * columns[:, None]).flatten(2).flatten(0, 1)  # [h,w,h,w] to [N,N]
    return F.pad(patches, (1, 0, 1, 0))  # [N+1,N+1]


def _gaussian_of_differences(side: int, deviation: float) -> Tensor:
    position = torch.arange(side, dtype=torch.float32)
    return torch.exp(-(position[:, None] - position[None]).square() / (2 * deviation**2))
