"""Adds CLIP's features to the tokens of the side network."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_EPSILON = 1e-6


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of [B,E,h,w].

    Not an ``nn.LayerNorm``, for those are exempt from weight decay and the published SAN decays this one.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, features: Tensor) -> Tensor:
        """[B,E,h,w] to the same."""
        last = features.permute(0, 2, 3, 1)  # [B,h,w,E]
        return F.layer_norm(last, last.shape[-1:], self.weight, self.bias, _EPSILON).permute(0, 3, 1, 2)


class AddFusion(nn.Module):
    """Normalise CLIP's features, project them to the side network's width, resize and add them.

    Args:
        clip_width: E.
        width: of the side network, S.
    """

    def __init__(self, clip_width: int, width: int):
        super().__init__()
        projection = nn.Conv2d(clip_width, width, kernel_size=1)
        nn.init.kaiming_uniform_(projection.weight, a=1)  # fvcore's c2_xavier_fill, which SAN takes
        assert projection.bias is not None
        nn.init.zeros_(projection.bias)
        self.input_proj = nn.Sequential(ChannelNorm(clip_width), projection)

    def forward(self, tokens: Tensor, features: Tensor, grid: tuple[int, int]) -> Tensor:
        """Patches of the side network with CLIP's beside them.

        Args:
            tokens: [B,L,S], L = h·w.
            features: [B,E,h',w'] of CLIP.
            grid: (h, w).
        Returns:
            [B,L,S]
        """
        projected = F.interpolate(self.input_proj(features), grid, mode="bilinear", align_corners=False)  # [B,S,h,w]
        return tokens + projected.flatten(2).transpose(1, 2)
