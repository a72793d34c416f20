"""NACLIP: keys with keys, weighted towards neighbouring patches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cliptrase_d2.clip.tokens import ImageTokens
from cliptrase_d2.methods.base import LastBlockAttention, register_method


@register_method("naclip")
class NACLIP(LastBlockAttention):
    """Add a Gaussian of the distance between patches to k·kᵀ/√d. No residual connection, no MLP.

    Args:
        deviation: standard deviation of the Gaussian, in patches, > 0.
    """

    title = "NACLIP, keys with keys and with neighbours, no residual, no MLP"
    source = "https://arxiv.org/abs/2404.08181"
    residual = False
    mlp = False

    def __init__(self, deviation: float = 5.0):
        self.deviation = deviation

    def attend(self, x: ImageTokens) -> Tensor:
        """Return softmax(k·kᵀ/√d + Gaussian)·v, [B,A,T,d]."""
        _, key, value = x.qkv()
        nearness = gaussian_neighbourhood(x.grid, self.deviation).to(key)
        return F.scaled_dot_product_attention(key, key, value, attn_mask=nearness)


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
