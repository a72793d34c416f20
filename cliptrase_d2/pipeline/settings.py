"""The method's settings, and the stages with these settings filled in: tensors in, tensors out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cliptrase_d2.clip.tokens import TextFeatures, VisualTokens
from cliptrase_d2.pipeline import classify
from cliptrase_d2.pipeline.clustering import NOISE, adaptive_dbscan, dbscan, hdbscan_clusters
from cliptrase_d2.pipeline.correlation import (
    HEADS,
    MEASURES,
    patch_correlation,
    self_correlation,
    suppress_global_patches,
)
from cliptrase_d2.pipeline.pooling import mask_average_pooling
from cliptrase_d2.pipeline.proposals import MaskProposals, propose_masks
from cliptrase_d2.pipeline.refinement import REFINEMENTS, ClassShares, pamr
from cliptrase_d2.pipeline.upsample import region_weights
from cliptrase_d2.utils.errors import InputError

CLUSTERINGS = ("dbscan", "hdbscan", "none")


@dataclass(frozen=True)
class PatchScene:
    """What the image tower saw, ready for the method.

    Attributes:
        patches: [B,N,D] features in the joint space.
        class_token: [B,D].
        correlation: [B,N,N], one row per patch.
        grid: (h, w) with h·w = N.
    """

    patches: Tensor
    class_token: Tensor
    correlation: Tensor
    grid: tuple[int, int]

    def of(self, images: list[int]) -> PatchScene:
        """The same of some of the images."""
        return PatchScene(self.patches[images], self.class_token[images], self.correlation[images], self.grid)


@dataclass(frozen=True, kw_only=True)
class Method:
    """Settings of the method; `config.py` says what each of them means.

    Raises:
        InputError: a setting outside its range.
    """

    correlation: str = "cosine"
    heads: str = "separate"
    suppress_global_patches: bool = True
    clustering: str = "dbscan"
    eps: float = 0.7
    min_samples: int = 3
    adaptive_dbscan: bool = False
    min_cluster_size: int = 5
    mask_upsample: int = 4
    median_filter: int = 7
    classification: str = "vote"
    cls_logit_weight: bool = False
    refinement: str = "none"
    refinement_steps: int = 10

    def __post_init__(self) -> None:
        _one_of("CORRELATION", self.correlation, MEASURES)
        _one_of("HEADS", self.heads, HEADS)
        _one_of("CLUSTERING", self.clustering, CLUSTERINGS)
        _one_of("CLASSIFICATION", self.classification, classify.RULES)
        _one_of("REFINEMENT", self.refinement, REFINEMENTS)
        _require("REFINEMENT_STEPS", self.refinement_steps, self.refinement_steps >= 1, "1 or more")
        _require("EPS", self.eps, self.eps > 0, "a number above 0")
        _require("MIN_SAMPLES", self.min_samples, self.min_samples >= 1, "1 or more")
        _require("MIN_CLUSTER_SIZE", self.min_cluster_size, self.min_cluster_size >= 2, "2 or more")
        _require("MASK_UPSAMPLE", self.mask_upsample, self.mask_upsample >= 1, "1 or more")
        odd = self.median_filter >= 1 and self.median_filter % 2 == 1
        _require("MEDIAN_FILTER", self.median_filter, odd, "an odd number, 1 for no filter")

    def correlate(self, tokens: VisualTokens) -> Tensor:
        """Correlation rows of the patches, [B,N,N]."""
        return self.patch_rows(self.token_correlation(tokens.query, tokens.key, tokens.value))

    def token_correlation(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Similarity of every two tokens of a block, the class token first, [B,A,N+1,d] -> [B,N+1,N+1] (A.2)."""
        return self_correlation(query, key, value, measure=self.correlation, heads=self.heads)

    def patch_rows(self, correlation: Tensor) -> Tensor:
        """Rows to cluster, of tokens with the class token first, [B,N+1,N+1] -> [B,N,N] (A.1)."""
        return suppress_global_patches(correlation) if self.suppress_global_patches else patch_correlation(correlation)

    def cluster(self, correlation: Tensor) -> Tensor:
        """Cluster 0, 1, … of every patch or -1 for noise, [B,N,N] -> [B,N] int64."""
        if self.clustering == "none":
            return torch.full(correlation.shape[:2], NOISE, device=correlation.device)
        if self.clustering == "hdbscan":
            return hdbscan_clusters(correlation, self.min_cluster_size)
        if self.adaptive_dbscan:
            return dbscan(correlation, *adaptive_dbscan(correlation.shape[1]))
        return dbscan(correlation, self.eps, self.min_samples)

    def propose(self, scene: PatchScene, labels: Tensor, size: tuple[int, int]) -> list[MaskProposals]:
        """Masks of images whose patches are in clusters `labels` [B,N], at `size` (H, W)."""
        return self.masks_of(scene.correlation, labels, scene.grid, size)

    def masks_of(
        self, correlation: Tensor, labels: Tensor, grid: tuple[int, int], size: tuple[int, int]
    ) -> list[MaskProposals]:
        """The same from correlation rows [B,N,N] on a grid (h, w) with h·w = N."""
        upsample, filter_size = self.mask_upsample, self.median_filter
        return propose_masks(correlation, labels, grid, size, upsample=upsample, filter_size=filter_size)

    def pool(self, scene: PatchScene, index: int, masks: MaskProposals) -> Tensor:
        """Mean feature of each mask of image `index` over its own pixels, [Q,D]; of the whole image, [1,D], if Q is 0.

        The masks are taken as they divide the image, not as the soft maps, which overlap: a mask's feature is then of
        the pixels that are counted for it.
        """
        weights = region_weights(masks.assignment, max(1, len(masks)), scene.grid)  # [Q,N]
        return mask_average_pooling(weights.float(), scene.patches[index])

    def word_logits(self, scene: PatchScene, text: TextFeatures, scale: Tensor) -> Tensor:
        """Logits of every word on the grid, [B,R,h,w]."""
        class_token = scene.class_token if self.cls_logit_weight else None
        logits = classify.patch_logits(scene.patches, text.features, scale, class_token)  # [B,N,R]
        return logits.unflatten(1, scene.grid).permute(0, 3, 1, 2)  # [B,R,h,w]

    def classify(
        self, masks: Sequence[MaskProposals], logits: Tensor, text: TextFeatures
    ) -> list[classify.Classification]:
        """Name the masks of images, assigned at one size, from the logits of their words, [B,R,h,w]."""
        size = (masks[0].assignment.shape[0], masks[0].assignment.shape[1])
        labels = classify.pixel_labels(logits, text.class_index, size)  # [B,H,W]
        counts, classes = [len(of) for of in masks], len(text.classes)
        if self.classification == "vote":
            return classify.vote(labels, [of.assignment for of in masks], counts, classes)
        return [
            classify.mean(pixels, of.assignment, count, scores, text.class_index, classes)
            for of, count, pixels, scores in zip(masks, counts, labels, logits, strict=True)
        ]

    def refine(self, label_map: Tensor, image: Tensor) -> ClassShares | None:
        """The label map [H,W] by the colours of its image, [3,H',W'] of any size; None where it shall stay."""
        if self.refinement == "none":
            return None
        size = (label_map.shape[0], label_map.shape[1])
        colours = F.interpolate(
            image[None].to(label_map.device).float(), size, mode="bilinear", align_corners=False, antialias=True
        )[0]
        return pamr(label_map, colours, self.refinement_steps)


def _one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    _require(key, value, value in allowed, " or ".join(map(repr, allowed)))


def _require(key: str, value: object, holds: bool, allowed: str) -> None:
    if not holds:
        raise InputError(f"MODEL.CLIPTRASE.{key}", repr(value), "Change it in the configuration.", allowed=allowed)
