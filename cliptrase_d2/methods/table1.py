"""The attentions of the paper's ablation (Table 1) without a method of their own."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from cliptrase_d2.clip.tokens import ImageTokens, Needs
from cliptrase_d2.methods.base import LastBlockAttention, register_method
from cliptrase_d2.methods.cliptrase import PAPER
from cliptrase_d2.methods.self_attention import sum_self_attention


@register_method("own_patch")
class OwnPatch(LastBlockAttention):
    """⟨x_i, x_i⟩: each of the three branches attends to its own token alone, so each returns v."""

    title = "Table 1: every patch attends to itself alone"
    source = PAPER

    def attend(self, x: ImageTokens) -> Tensor:
        """Return 3·v, [B,A,T,d]."""
        return 3 * x.qkv()[2]


@register_method("cosine")
class Cosine(LastBlockAttention):
    """COS: CLIPtrase's three branches by cosine.

    The supplement does not say how a cosine becomes an attention weight. Here vectors get the length √d, for which the
    1/√d of attention was made, so the softmax is over √d·cos.
    """

    title = "Table 1: CLIPtrase's attention by cosine"
    source = PAPER

    def attend(self, x: ImageTokens) -> Tensor:
        """Return Σ softmax(√d·cos(a,a))·v over a = q, k, v, [B,A,T,d]."""
        qkv = x.qkv()
        branches = (F.normalize(branch, dim=-1) * math.sqrt(branch.shape[-1]) for branch in qkv)
        return sum_self_attention(branches, qkv[2], self.attention_mask(x))

    def attention_mask(self, x: ImageTokens) -> Tensor | None:
        """Return which tokens attend to which, [B,1,T,T] bool; None for all to all."""
        return None


@register_method("cosine_oracle")
class CosineOracle(Cosine):
    """COS with j in the truth: an oracle, in which a patch attends to the patches of its true region alone."""

    title = "Table 1: the same within the true region: an ORACLE"
    source = PAPER
    needs = Needs(true_labels=True)

    def attention_mask(self, x: ImageTokens) -> Tensor:
        """Return the pairs of one region; the class token attends to all tokens, and no patch to it."""
        regions = x.patch_regions()  # [B,N]
        batch, patches = regions.shape
        mask = torch.zeros(batch, 1, patches + 1, patches + 1, dtype=torch.bool, device=regions.device)
        mask[:, :, 0] = True
        mask[:, 0, 1:, 1:] = regions[:, :, None] == regions[:, None, :]
        return mask
