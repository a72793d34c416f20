"""SC-CLIP and SFP: repaired outliers, a calibrated last block, and a second branch of several levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from cliptrase_d2.clip.tokens import DenseFeatures, ImageTokens, Needs, cosine_matrix
from cliptrase_d2.methods.anomalies import find_attention_outliers, find_local_outliers, find_long_patches, repair
from cliptrase_d2.methods.base import DenseMethod, register_method
from cliptrase_d2.utils.errors import check_range

Detector = Literal["local_density", "class_attention", "length", "none"]
Branches = Literal["", "kk", "qq+kk"]
_PUBLISHED_DEPTH = 12  # blocks of the ViT-B/16 that the block numbers are from


@register_method("sc_clip")
@dataclass(eq=False)
class SCCLIP(DenseMethod):
    """Repair outliers, and let patches attend to patches that were similar in an earlier block.

    x_b are the tokens after block b, counted from 1, c_b the class token of x_b, and L the number of blocks. The tower
    runs once, as trained. Then:

    1. The outliers of x_{L-1} are detected. `repair` replaces them by the mean of their intact neighbours.
    2. S are the cosines of the repaired patches of x_9, S' those of the patches of x_4. T and T' are S and S' without
       their entries below 0.4. P·Y with P_ij = T_ij/(Σ_j T_ij + 1e-6) aggregates patches Y by T.
    3. M = 3·(S - mean(S)), with -∞ for negative entries. The patches attend without the class token, by
       W = ½·(softmax(M) + softmax(k·kᵀ/√d)), in the last block without residual connection and MLP.
    4. Y = repair(x_{L-1}), aggregated by T; attended, plus 0.3·c_{L-1}; aggregated by T'.
    5. Z = x_4 + … + x_10; attended, plus 0.3 times its class token; aggregated by T'.
    6. Y + Z pass CLIP's last norm and projection.

    All steps treat each image by itself and follow its grid (h, w). The published code is right for one square image at
    a time only. A tower of fewer than 12 blocks takes the blocks at the same share of its depth.

    Cost: one pass through the tower; five products of N×N with N×E and one float64 product for the detector, instead of
    the last block's MLP.

    Args:
        outliers: "local_density" (a variant of LOF, about 5 % of the patches), "class_attention" (see `SFP`), "length"
            (the longest patches), or "none".
        max_outliers: number of outliers of "class_attention" and "length", ≥ 1.
        keep_isolated: whether an outlier without an intact neighbour keeps its vector; otherwise it becomes zero.
        similarity_block: block of S, ≥ 1.
        detail_block: block of S', ≥ 1.
        first_level, last_level: first and last block of Z, ≥ 1.
        threshold: least similarity of T and T', in [0,1].
        thresholded_logits: whether M is made of T instead of S.
        class_token: weight of the class tokens.
        attention: self-attentions besides softmax(M) that are averaged in step 4.
        level_attention: the same in step 5.
    """

    title = "SC-CLIP, repaired outliers and calibrated attention"
    source = "https://arxiv.org/abs/2411.15869"
    has_class_token = False

    outliers: Detector = "local_density"
    max_outliers: int = 10
    keep_isolated: bool = True
    similarity_block: int = 9
    detail_block: int = 4
    first_level: int = 4
    last_level: int = 10
    threshold: float = 0.4
    thresholded_logits: bool = False
    class_token: float = 0.3
    attention: Branches = "kk"
    level_attention: Branches = "kk"

    def __post_init__(self) -> None:
        for name in ("max_outliers", "similarity_block", "detail_block", "first_level"):
            check_range(name, getattr(self, name), getattr(self, name) >= 1, "1 or more")
        least = self.first_level
        check_range("last_level", self.last_level, self.last_level >= least, f"first_level, {least}, or more")
        # Negative weights could sum to zero.
        check_range("threshold", self.threshold, 0 <= self.threshold <= 1, "a number from 0 to 1")
        check_range("class_token", self.class_token, isfinite(self.class_token), "a finite number")
        highest = max(self.similarity_block, self.detail_block, self.last_level)
        # All states up to the highest, since a shallow tower takes lower ones.
        self.needs = Needs(range(1, highest + 1), qkv=(-2,) if self.outliers == "class_attention" else ())

    def __call__(self, x: ImageTokens) -> DenseFeatures:
        """Compute the dense features of a batch."""
        last, outliers = x.hidden_state(), self.find_outliers(x)  # [B,N+1,E], [B,N]
        repaired = repair(last[:, 1:], outliers, x.grid, keep_isolated=self.keep_isolated)
        patches = self.get_similarity_patches(x)
        similarity = cosine_matrix(repair(patches, outliers, x.grid, keep_isolated=self.keep_isolated)).float()
        kept = self.apply_threshold(similarity)
        detail = cosine_matrix(x.hidden_state(at_depth(self.detail_block, x.depth))[:, 1:]).float()
        detail = normalize_rows(self.apply_threshold(detail))  # [B,N,N]
        weights = calibrated_attention(kept if self.thresholded_logits else similarity)
        main = self.attend(x, normalize_rows(kept) @ repaired, weights, last[:, :1], self.attention)
        levels = range(at_depth(self.first_level, x.depth), at_depth(self.last_level, x.depth) + 1)
        summed = sum_states(x, levels)
        second = self.attend(x, summed[:, 1:], weights, summed[:, :1], self.level_attention)
        # Aggregation is linear, so that the sum of the branches is aggregated once.
        return x.to_features(detail @ (main + second), has_class_token=False)

    def get_similarity_patches(self, x: ImageTokens) -> Tensor:
        """Return the patches whose cosines are S, [B,N,E]."""
        return x.hidden_state(at_depth(self.similarity_block, x.depth))[:, 1:]

    def find_outliers(self, x: ImageTokens) -> Tensor:
        """Return the anomalous patches of the last block's input, [B,N] bool."""
        patches = x.hidden_state()[:, 1:]
        if self.outliers == "local_density":
            return find_local_outliers(patches)
        if self.outliers == "class_attention":
            query, key, _ = x.qkv(-2)
            return find_attention_outliers(query, key, 5 * self.class_token, self.max_outliers)
        if self.outliers == "length":
            return find_long_patches(patches, self.max_outliers)
        return torch.zeros(patches.shape[:2], dtype=torch.bool, device=patches.device)

    def apply_threshold(self, similarity: Tensor) -> Tensor:
        """Set similarities below the threshold to 0."""
        return similarity.masked_fill(similarity < self.threshold, 0)

    def attend(self, x: ImageTokens, patches: Tensor, weights: Tensor, class_token: Tensor, branches: str) -> Tensor:
        """Run the last block on patches without a class token, and add a weighted class token.

        Args:
            patches: [B,N,E].
            weights: [B,N,N], the calibrated attention of all heads.
            class_token: [B,1,E].
            branches: a value of `Branches`.
        Returns:
            [B,N,E].
        """
        query, key, value = x.project_qkv(patches)  # each [B,A,N,d]
        heads = value.shape[1]
        # Heads side by side, since all share the weights.
        attended = (weights @ value.transpose(1, 2).flatten(2)).unflatten(2, (heads, -1)).transpose(1, 2)  # [B,A,N,d]
        own = [part for name, part in (("qq", query), ("kk", key)) if name in branches.split("+")]
        for part in own:
            attended = attended + scaled_dot_product_attention(part, part, value)
        tokens = x.finish_block(attended / (1 + len(own)), residual=False, mlp=False)
        return tokens + self.class_token * class_token


@register_method("sfp")
@dataclass(eq=False)
class SFP(SCCLIP):
    """SC-CLIP with outliers by attention and sharper similarities, as SFP's published code computes it.

    The differences to `SCCLIP`:

    - A is the attention of block L-1, averaged over the heads. Patch j is an outlier if 1.5·A_{0j} > A_{jj}, i.e. if
      the class token attends to it more than it does itself. At most the 10 with the largest A_{0j} are outliers.
    - An outlier without an intact neighbour becomes the zero vector.
    - M is made of T instead of S.
    - Y attends by ⅓·(softmax(M) + softmax(q·qᵀ/√d) + softmax(k·kᵀ/√d)), and Z by softmax(M) alone.

    The paper also describes changes in every layer, which the published code does not have.

    Cost: as `SCCLIP`, with the attention matrix of one block in place of the detector's distances.

    Args: as `SCCLIP`, with other defaults. The factor 1.5 is 5 times ``class_token``.
    """

    title = "SFP, outliers by attention and calibrated attention"
    source = "https://github.com/Kimsure/SFP"

    outliers: Detector = "class_attention"
    keep_isolated: bool = False
    thresholded_logits: bool = True
    attention: Branches = "qq+kk"
    level_attention: Branches = ""


def at_depth(block: int, depth: int) -> int:
    """Return the hidden state after a block of the published tower, at the same share of the depth of a smaller one."""
    scaled = block if depth >= _PUBLISHED_DEPTH else round(block * depth / _PUBLISHED_DEPTH)
    return min(max(1, scaled), depth - 1)


def sum_states(x: ImageTokens, states: Sequence[int]) -> Tensor:
    """Return the sum of hidden states, [B,T,E]."""
    first, *others = (x.hidden_state(state) for state in states)
    return sum(others, first)


def normalize_rows(weights: Tensor) -> Tensor:
    """Divide each row of weights [B,N,N] by its sum + 1e-6."""
    return weights / (weights.sum(-1, keepdim=True) + 1e-6)


def calibrated_attention(similarity: Tensor) -> Tensor:
    """Return softmax(M) of M = 3·(S - mean(S)) over the entries M ≥ 0 of each row, [B,N,N] to [B,N,N].

    The mean is that of the image. A row without such an entry, as of a zero vector, is uniform.
    """
    logits = 3 * (similarity - similarity.mean((1, 2), keepdim=True))
    # Not -inf, which would turn a row without entries into NaN.
    return logits.masked_fill(logits < 0, torch.finfo(logits.dtype).min).softmax(-1)
