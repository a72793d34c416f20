"""MaskCLIP: every token keeps its own value."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from cliptrase_d2.clip.tokens import DenseFeatures, ImageTokens
from cliptrase_d2.methods.base import LastBlockAttention, register_method
from cliptrase_d2.utils.errors import check_range

_ABSENT = -1e4  # the logit of a word that prompt denoising removes


@register_method("maskclip")
class MaskCLIP(LastBlockAttention):
    """Replace the attention matrix of the last block by the identity.

    The two thresholds are the published code's refinements of the logits. Both are off by default.

    Args:
        residual, mlp, blocks: see `LastBlockAttention`.
        pd_thresh: prompt denoising, see `denoise_prompts`, in [0,1]; 0 for none.
        ks_thresh: key smoothing, see `smooth_by_keys`, in [0,1]; 0 for none. Its results are weighted probabilities
            instead of logits, so confidences are not CLIP's.
    """

    title = "MaskCLIP, values only"
    source = "https://arxiv.org/abs/2112.01071"

    def __init__(
        self,
        residual: bool | None = None,
        mlp: bool | None = None,
        blocks: int = 1,
        pd_thresh: float = 0.0,
        ks_thresh: float = 0.0,
    ):
        super().__init__(residual, mlp, blocks)
        for name, value in (("pd_thresh", pd_thresh), ("ks_thresh", ks_thresh)):
            check_range(name, value, 0 <= value <= 1, "a number from 0 to 1")
        self.pd_thresh, self.ks_thresh = pd_thresh, ks_thresh

    def attend(self, x: ImageTokens) -> Tensor:
        """Return v, [B,A,T,d]."""
        return x.qkv()[2]

    def __call__(self, x: ImageTokens) -> DenseFeatures:
        """Run the last blocks with the method's attention. Key smoothing needs the keys of the last block."""
        features = super().__call__(x)
        if not self.ks_thresh:
            return features
        return replace(features, keys=x.qkv()[1][:, :, 1:].transpose(1, 2).flatten(2))  # [B,N,E]

    @property
    def refines_logits(self) -> bool:
        """Whether a threshold is set."""
        return bool(self.pd_thresh or self.ks_thresh)

    def refine_logits(self, logits: Tensor, features: DenseFeatures, size: tuple[int, int]) -> Tensor:
        """Apply the refinements whose thresholds are set."""
        if self.pd_thresh:
            logits = denoise_prompts(logits, self.pd_thresh)
        if self.ks_thresh:
            assert features.keys is not None, "__call__ keeps them"
            logits = smooth_by_keys(logits, features.keys, self.ks_thresh)
        return logits


def denoise_prompts(logits: Tensor, threshold: float) -> Tensor:
    """Remove the words whose probability is below a threshold everywhere in the image.

    If no word reaches the threshold, all have the same logit.

    Args:
        logits: [B,R,h,w].
        threshold: in [0,1].
    Returns:
        [B,R,h,w].
    """
    highest = logits.softmax(1).amax((2, 3), keepdim=True)  # [B,R,1,1]
    return logits.masked_fill(highest < threshold, _ABSENT)


def smooth_by_keys(logits: Tensor, keys: Tensor, threshold: float) -> Tensor:
    """Replace the probabilities of uncertain patches by sums over all patches, weighted by the product of their keys.

    As in the published code, every channel of the keys is normalised over the patches of the image.

    Args:
        logits: [B,R,h,w].
        keys: [B,N,E] of the patches.
        threshold: in [0,1]; patches whose best word has a lower probability are uncertain.
    Returns:
        [B,R,h,w]: probabilities, and weighted sums of them.
    """
    words = logits.softmax(1).flatten(2)  # [B,R,N]
    unit = F.normalize(keys.to(words), dim=1)
    smoothed = (words @ unit) @ unit.transpose(1, 2)  # [B,R,N]; no N×N matrix
    return torch.where(words.amax(1, keepdim=True) < threshold, smoothed, words).view_as(logits)
