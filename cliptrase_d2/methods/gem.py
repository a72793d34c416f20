"""GEM: self-self attention beside the last blocks of CLIP."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cliptrase_d2.clip.tokens import QKV, DenseFeatures, ImageTokens, Needs
from cliptrase_d2.methods.base import DenseMethod, register_method
from cliptrase_d2.utils.errors import check_range

_CACHED_VALUES = 2**17  # of the attention matrices that are computed together on a CPU, 512 kB


@register_method("gem")
class GEM(DenseMethod):
    """Add up self-self attention over the last blocks. CLIP's own path stays as trained and does not see the sum.

    The inference of the published code, configs/methods/gem.yaml, also has squares of 448 pixels, one template, and the
    map of each word scaled to [0,1].

    Args:
        depth: number of blocks, counted from the last, ≥ 1; more than the tower has means all. The published code
            calls its six blocks ``gem_depth=7``.
        position_resize: how the position embedding is fitted to another grid, see `pos_embed.RESIZE_MODES`; "tower" as
            MODEL.CLIP.POS_EMBED_RESIZE says.
        min_max: whether to scale the map of every word to [0,1] over the pixels of the image, as the published code
            does before the argmax. Words that are not in the image win pixels too.
    """

    title = "GEM, self-self attention beside the last six blocks"
    source = "https://arxiv.org/abs/2312.00878"

    def __init__(
        self,
        depth: int = 6,
        position_resize: Literal["antialias", "scale_factor", "output_size", "tower"] = "antialias",
        min_max: bool = False,
    ):
        check_range("depth", depth, depth >= 1, "1 or more")
        self.depth, self.min_max = depth, min_max
        mode = "" if position_resize == "tower" else position_resize
        self.needs = Needs(hidden_states=range(-depth, 0), qkv=range(-depth, 0), position_resize=mode)

    def __call__(self, x: ImageTokens) -> DenseFeatures:
        """Compute the dense features of a batch."""
        first = max(0, x.depth - self.depth)
        dense = x.hidden_state(first)  # [B,T,E]
        for block in range(first, x.depth):
            attended = self_self_attention(x.qkv(block), x.normalize_input(block))
            dense = x.finish_block(attended, x=dense, block=block, mlp=False)
        return x.to_features(dense)

    @property
    def refines_logits(self) -> bool:
        """Whether maps are scaled."""
        return self.min_max

    def refine_logits(self, logits: Tensor, features: DenseFeatures, size: tuple[int, int]) -> Tensor:
        """Scale the map of every word to [0,1] over the pixels of its image, if `min_max` is set."""
        return min_max_normalize(logits, size) if self.min_max else logits


def min_max_normalize(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Return maps whose bilinear upsampling has the minimum 0 and the maximum 1; a constant map becomes 0.

    Args:
        logits: [B,R,h,w].
        size: (H, W) of the upsampled maps.
    """
    extremes = [
        torch.aminmax(F.interpolate(word, size, mode="bilinear", align_corners=False).flatten(2), dim=2)
        for word in logits.split(1, dim=1)  # a word at a time: [B,R,H,W] may not fit into memory
    ]
    low = torch.cat([word.min for word in extremes], dim=1)[:, :, None, None]  # [B,R,1,1]
    high = torch.cat([word.max for word in extremes], dim=1)[:, :, None, None]
    return (logits - low) / (high - low).clamp_min(torch.finfo(logits.dtype).tiny)


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
    scale = (lengths / math.sqrt(value.shape[-1]))[:, None, None, None].to(value.dtype)  # [B,1,1,1]
    fits = value.shape[2] ** 2 <= 4 * _CACHED_VALUES and value.device.type == "cpu" and value.dtype == torch.float32
    if fits and not torch.compiler.is_compiling():  # an export would fix the batch size
        return _attend_in_cache(qkv, scale)
    total = torch.zeros_like(value)
    for branch in qkv:
        unit = F.normalize(branch, dim=-1)
        clustered = F.normalize(F.scaled_dot_product_attention(scale * unit, unit, unit, scale=1.0), dim=-1)
        total = total + F.scaled_dot_product_attention(scale * clustered, clustered, value, scale=1.0)
    return total / 3


def _attend_in_cache(qkv: QKV, scale: Tensor) -> Tensor:
    """Compute the same with matrices [T,T] of a few heads at a time, which is faster while they fit into the cache.

    Args:
        qkv: each [B,A,T,d].
        scale: [B,1,1,1], 1/τ.
    """
    batch, heads, length, width = qkv[2].shape
    at_once = max(1, _CACHED_VALUES // length**2)
    parts = (*(part.reshape(-1, length, width) for part in qkv), scale.expand(-1, heads, -1, -1).reshape(-1, 1, 1))
    outputs = []
    for query, key, value, rate in zip(*(part.split(at_once) for part in parts), strict=True):
        total: Tensor | float = 0.0
        for branch in (query, key, value):
            unit = F.normalize(branch, dim=-1)
            # Normalising the result makes the softmax's denominator superfluous. No cosine exceeds 1.
            weights = torch.matmul(rate * unit, unit.mT).sub_(rate).exp_()
            clustered = F.normalize(weights @ unit, dim=-1)
            total = total + torch.matmul(rate * clustered, clustered.mT).softmax(-1)
        outputs.append(total @ value)
    return torch.cat(outputs).view(batch, heads, length, width) / 3
