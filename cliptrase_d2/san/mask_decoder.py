"""Masks and attention biases from the queries and patches of the side network (SAN, section 3.2)."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Perceptron(nn.Module):
    """Linear layers with ReLU between them.

    Args:
        widths: of the input, of every hidden layer, and of the output.
        on_maps: whether it runs on [B,c,h,w], as 1x1 convolutions, or on [...,c].
    """

    def __init__(self, *widths: int, on_maps: bool = False):
        super().__init__()
        pairs = pairwise(widths)
        self.layers = nn.ModuleList(nn.Conv2d(a, b, kernel_size=1) if on_maps else nn.Linear(a, b) for a, b in pairs)

    def forward(self, x: Tensor) -> Tensor:
        """The last layer's output has no ReLU."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class MaskDecoder(nn.Module):
    """Dot products of queries with pixels: one for the mask, one per head of CLIP for the attention bias.

    Args:
        width: of the side network, S.
        heads: of CLIP's blocks, A.
        channels: of every layer and of the dot products.
        layers: of every perceptron.
    """

    def __init__(self, width: int, heads: int, *, channels: int = 256, layers: int = 3):
        super().__init__()
        hidden = [channels] * (layers - 1)
        self.heads = heads
        self.query_mlp = Perceptron(width, *hidden, channels)
        self.pix_mlp = Perceptron(width, *hidden, channels, on_maps=True)
        self.attn_mlp = Perceptron(width, *hidden, channels * heads, on_maps=True)
        self.bias_scaling = nn.Linear(1, 1)

    def forward(self, queries: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Decode.

        Args:
            queries: [B,Q,S].
            patches: [B,S,h,w].
        Returns:
            Mask logits [B,Q,h,w] and attention biases [B,A,Q,h,w].
        """
        queries = self.query_mlp(queries)  # [B,Q,c]
        masks = torch.einsum("bqc,bchw->bqhw", queries, self.pix_mlp(patches))
        by_head = self.attn_mlp(patches).unflatten(1, (self.heads, -1))  # [B,A,c,h,w]
        biases = torch.einsum("bqc,bachw->baqhw", queries, by_head)
        return masks, self.bias_scaling(biases[..., None]).squeeze(-1)
