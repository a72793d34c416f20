"""ProxyCLIP: the affinity of another vision model in place of the attention of CLIP's last block."""

from __future__ import annotations

from math import isfinite
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cliptrase_d2.clip.tokens import DenseFeatures, ImageTokens, Needs, PatchFeatures
from cliptrase_d2.methods.base import DenseMethod, register_method
from cliptrase_d2.utils.errors import check_range
from cliptrase_d2.utils.tensors import autocast

Features = Literal["tokens", "queries", "keys", "values", "queries+keys"]
_SCR_BLOCK = -2  # whose q, k, v CLIPtrase correlates (A.2)


@register_method("proxyclip")
class ProxyCLIP(DenseMethod):
    """Average CLIP's values over the patches that another vision model finds similar.

    CLIP's patches attend to unrelated ones, while the features of DINO are consistent within an object. With the unit
    features f_i of the M patches of that model, on its own grid::

        S_ij = f_i·f_j
        L_ij = γ·(S_ij - β·mean(S)), and -∞ where this is below 0
        z    = LN_post(W_o·softmax(L)·v + b_o), projected to the joint space

    mean(S) is over all M² pairs of one image. v are the values of CLIP's last block, without the class token, resized
    bilinearly to the grid of the other model. All heads share softmax(L). The last block keeps neither residual
    connection nor MLP, and the features have no class token. In the published code the mean is over the batch, whose
    size is 1 there. A patch always attends to itself, which matters only if all patches of an image are alike.

    The default model is DINO ViT-B/8, whose grid is twice as fine as that of a ViT-B/16: 42×42 at 336 pixels.
    MODEL.VISION names another one: DINOv2, another ViT of timm, or the image encoder of SAM.

    Cost: one pass through the other model, and M² numbers per image: 12 MB for M = 1764.

    Args:
        beta: β, at least 0. Published: 1.2 for all data sets.
        gamma: γ > 0. Published: 3.
        features: of the other model: its last tokens, or projections of its last block.
        affinity: "vision", or "scr" for CLIPtrase's correlation of CLIP's own last block but one, the mean cosine of q,
            k and v over all heads, without a second model. Its grid is CLIP's.
    Raises:
        InputError: an option is out of range.
    """

    title = "ProxyCLIP, the affinity of DINO's patches"
    source = "https://arxiv.org/abs/2408.04883"
    has_class_token = False
    vision_model = "vit_base_patch8_224.dino"

    def __init__(
        self,
        beta: float = 1.2,
        gamma: float = 3.0,
        features: Features = "tokens",
        affinity: Literal["vision", "scr"] = "vision",
    ):
        check_range("beta", beta, isfinite(beta) and beta >= 0, "a number of at least 0")
        check_range("gamma", gamma, isfinite(gamma) and gamma > 0, "a number above 0")
        self.beta, self.gamma, self.affinity = beta, gamma, affinity
        self.needs = Needs(qkv=(_SCR_BLOCK,)) if affinity == "scr" else Needs(vision_features=features)

    def __call__(self, x: ImageTokens) -> DenseFeatures:
        """Compute the dense features of a batch."""
        features = self_correlated_features(x) if self.affinity == "scr" else x.vision_features
        assert features is not None, "the model provides what a method needs"
        with autocast(features.features.device, torch.float32):
            attention = proxy_attention(features.affinity(), self.beta, self.gamma)
        value = resize_heads(x.qkv()[2][:, :, 1:], x.grid, features.grid)  # [B,A,M,d]
        attended = (attention.to(value.dtype) @ value.transpose(1, 2).flatten(2)).unflatten(2, value.shape[1::2])
        tokens = x.finish_block(attended.transpose(1, 2), residual=False, mlp=False)
        return x.to_features(tokens, has_class_token=False, grid=features.grid)


def proxy_attention(affinity: Tensor, beta: float, gamma: float, *, one_mean: bool = False) -> Tensor:
    """Return the attention of patches to the patches that are similar to them.

    Args:
        affinity: [B,M,M], cosines. Changed in place.
        beta: β, the factor of the mean of an image, below which a pair is cut.
        gamma: γ, the factor of the logits.
        one_mean: whether the mean is that of the batch, for windows of one image.
    Returns:
        [B,M,M] float32, rows with sum 1.
    """
    threshold = beta * (affinity.mean() if one_mean else affinity.mean((1, 2), keepdim=True))
    logits = affinity.sub_(threshold).mul_(gamma)
    is_cut = logits < 0
    is_cut.diagonal(dim1=1, dim2=2).fill_(False)
    return logits.masked_fill_(is_cut, -torch.inf).softmax(-1)


def resize_heads(heads: Tensor, grid: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """Resize vectors of the patches of a grid (h, w) bilinearly, [B,A,h·w,d] to [B,A,h'·w',d]."""
    if grid == target:
        return heads
    maps = heads.transpose(2, 3).flatten(1, 2).unflatten(2, grid)  # [B,A·d,h,w]
    resized = F.interpolate(maps, target, mode="bilinear", align_corners=False)
    return resized.flatten(2).unflatten(1, heads.shape[1::2]).transpose(2, 3)


def self_correlated_features(x: ImageTokens) -> PatchFeatures:
    """Return vectors whose cosines are CLIPtrase's correlation of the patches, [B,N,3E] (A.2, Eq. 1-3)."""
    unit = [F.normalize(part[:, :, 1:].float(), dim=-1) for part in x.qkv(_SCR_BLOCK)]  # each [B,A,N,d]
    return PatchFeatures(torch.cat(unit, dim=1).transpose(1, 2).flatten(2), x.grid)
