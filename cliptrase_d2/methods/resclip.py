"""ResCLIP: attention of middle blocks, and a first segmentation that feeds back, beside another method's attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cliptrase_d2.clip.open_clip_modules import patch_size
from cliptrase_d2.clip.tokens import DenseFeatures, ImageTokens, Needs, TextFeatures
from cliptrase_d2.methods.base import DenseMethod, register_method
from cliptrase_d2.methods.naclip import gaussian_neighbourhood
from cliptrase_d2.methods.semantic_feedback import feedback_matrix, patch_words, pixel_words
from cliptrase_d2.utils.errors import check_choice, check_range
from cliptrase_d2.utils.tensors import autocast

BASES = ("naclip", "sclip", "clearclip", "clip")
_MIDDLE_BLOCKS = (5, 6, 7, 8)  # blocks 6 to 9
_FALLBACK_BLOCK = -2  # of a tower in which all of these are the last block or beyond


@register_method("resclip")
class ResCLIP(DenseMethod):
    """Add the attention R of middle blocks (RCS) and the feedback F of a first segmentation (SFR) to a base method.

    With the base's logits U of the attention, such as k·kᵀ/√d and the Gaussian ω of NACLIP::

        first pass   B = softmax(U + ω)
        second pass  B = softmax(τs·((1 - λs)·U + λs·F) + ω)
        both         τr·((1 - λr)·B + λr·R) applied to v

    R is the mean attention of blocks 6 to 9, head by head; a tower of six blocks or fewer has its last block but one
    instead. F follows from the words of the first pass, see `semantic_feedback`. The trunk runs once, and R·v too.

    Args:
        base: attention that is extended: "naclip", "sclip", "clearclip" or "clip". Only SCLIP's keeps the residual
            connection and the MLP.
        rcs_scale, rcs_weight: τr > 0 and λr in [0,1].
        sfr_scale, sfr_weight: τs > 0 and λs in [0,1].
        threshold: least probability of a pixel's word in the first segmentation, 0 to 1. Below, it becomes the first
            word of the class "background" or, without one, the first word.
        logit_scale: of the cosines in this probability, > 0.
        deviation: of NACLIP's Gaussian, in patches, > 0.
        whole_path: see `semantic_feedback.path_stays_in_word`.
    Raises:
        InputError: an option is out of range.
    """

    title = "ResCLIP, NACLIP with the attention of middle blocks and the feedback of a first segmentation"
    source = "https://arxiv.org/abs/2411.15851"
    needs = Needs(qkv=(_FALLBACK_BLOCK, *_MIDDLE_BLOCKS), text=True)

    def __init__(
        self,
        base: str = "naclip",
        rcs_scale: float = 2.0,
        rcs_weight: float = 0.4,
        sfr_scale: float = 1.8,
        sfr_weight: float = 0.7,
        threshold: float = 0.11,
        logit_scale: float = 40.0,
        deviation: float = 5.0,
        whole_path: bool = False,
    ):
        check_choice("base", base, BASES)
        for name, value in (("rcs_weight", rcs_weight), ("sfr_weight", sfr_weight), ("threshold", threshold)):
            check_range(name, value, 0 <= value <= 1, "0 to 1")
        for name, value in (("rcs_scale", rcs_scale), ("sfr_scale", sfr_scale), ("logit_scale", logit_scale)):
            check_range(name, value, value > 0, "a number above 0")
        check_range("deviation", deviation, deviation > 0, "a number above 0")
        self.base, self.deviation, self.whole_path = base, deviation, whole_path
        self.rcs_scale, self.rcs_weight = rcs_scale, rcs_weight
        self.sfr_scale, self.sfr_weight = sfr_scale, sfr_weight
        self.threshold, self.logit_scale = threshold, logit_scale

    def __call__(self, x: ImageTokens) -> DenseFeatures:
        """Compute the dense features of a batch."""
        residual = self.attend_as_middle_blocks(x)
        first = self._finish(x, residual, self.attend_as_base(x))
        with autocast(residual.device, torch.float32):
            feedback = feedback_matrix(self.segment(x, first), whole_path=self.whole_path)
        return self._finish(x, residual, self.attend_as_base(x, feedback))

    def attend_as_middle_blocks(self, x: ImageTokens) -> Tensor:
        """Return R·v, [B,A,T,d]. The mean of the matrices is applied block by block, so none of them is stored."""
        blocks = [block for block in _MIDDLE_BLOCKS if block < x.depth - 1] or [_FALLBACK_BLOCK]
        value = x.qkv()[2]
        attended = [F.scaled_dot_product_attention(*x.qkv(block)[:2], value) for block in blocks]
        return sum(attended[1:], attended[0]) / len(blocks)

    def attend_as_base(self, x: ImageTokens, feedback: Tensor | None = None) -> Tensor:
        """Return B·v, [B,A,T,d].

        Args:
            x: tokens of the batch.
            feedback: F [B,T,T] of the second pass; None in the first.
        """
        query, key, value = x.qkv()
        pairs = {"naclip": [(key, key)], "sclip": [(query, query), (key, key)], "clearclip": [(query, query)]}
        mask, scale = None, key.shape[-1] ** -0.5
        if self.base == "naclip":
            mask = gaussian_neighbourhood(x.grid, self.deviation).to(key)
        if feedback is not None:
            # The published code rounds the quotient to half in any precision.
            part = (feedback / feedback.amax((1, 2), keepdim=True)).half()[:, None]  # [B,1,T,T]
            added = (self.sfr_scale * self.sfr_weight * part.float()).to(key)
            mask, scale = added if mask is None else mask + added, self.sfr_scale * (1 - self.sfr_weight) * scale
        attended = [
            F.scaled_dot_product_attention(one, other, value, attn_mask=mask, scale=scale)
            for one, other in pairs.get(self.base, [(query, key)])
        ]
        return sum(attended[1:], attended[0])

    def segment(self, x: ImageTokens, features: DenseFeatures) -> Tensor:
        """Return the word of each patch from the features of the first pass, [B,h,w] int64."""
        assert x.text is not None, "the model provides what a method needs"
        assert x.images is not None
        vocabulary = _put_background_first(x.text).float()
        cosines = (features.patches @ vocabulary.T).unflatten(1, x.grid).permute(0, 3, 1, 2)  # [B,R,h,w]
        words = (
            pixel_words(one, image, self.logit_scale, self.threshold)
            for one, image in zip(cosines, x.images, strict=True)
        )
        return torch.stack([patch_words(one, x.grid, patch_size(x.tower)) for one in words])

    def _finish(self, x: ImageTokens, residual: Tensor, base: Tensor) -> DenseFeatures:
        """Mix R·v and B·v, and apply the rest of the block."""
        attended = self.rcs_scale * torch.lerp(base, residual, self.rcs_weight)
        keeps = self.base == "sclip"
        return x.to_features(x.finish_block(attended, residual=keeps, mlp=keeps))


def _put_background_first(text: TextFeatures) -> Tensor:
    """Return the features of the words in the published order, [R,D], in which a class "background" is the first."""
    if "background" not in text.classes:
        return text.features
    is_other = text.class_index != text.classes.index("background")
    return text.features[is_other.int().argsort(stable=True)]
