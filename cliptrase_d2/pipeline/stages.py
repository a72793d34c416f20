"""The stages of CLIPtrase in the paper's order, each a function of tensors and settings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cliptrase_d2.clip.tokens import QKV, DenseFeatures, TextFeatures
from cliptrase_d2.pipeline import classify
from cliptrase_d2.pipeline.clustering import NOISE, adaptive_parameters, dbscan, hdbscan_clusters
from cliptrase_d2.pipeline.correlation import patch_correlation, self_correlation, suppress_global_patches
from cliptrase_d2.pipeline.proposals import MaskProposals, mask_average_pooling, propose_masks
from cliptrase_d2.pipeline.refinement import ClassShares, pamr
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.pipeline.upsample import region_weights
from cliptrase_d2.utils.profiling import stage

Size = tuple[int, int]


def correlate_tokens(qkv: QKV, settings: CLIPtraseSettings) -> Tensor:
    """Return the similarity of every two tokens of a block, [B,A,N+1,d] to [B,N+1,N+1] (A.2, Eq. 1-6)."""
    return self_correlation(*qkv, measure=settings.correlation, heads=settings.heads)


def select_patch_rows(correlation: Tensor, settings: CLIPtraseSettings) -> Tensor:
    """Return the rows to cluster, [B,N+1,N+1] to [B,N,N], with or without the class token's row subtracted (A.1)."""
    denoise = suppress_global_patches if settings.suppress_global_patches else patch_correlation
    return denoise(correlation)


def correlate(qkv: QKV, settings: CLIPtraseSettings) -> Tensor:
    """Return the correlation rows of the patches, [B,A,N+1,d] to [B,N,N] (A.1, A.2)."""
    return select_patch_rows(correlate_tokens(qkv, settings), settings)


@stage("clustering")
def cluster(correlation: Tensor, settings: CLIPtraseSettings) -> Tensor:
    """Return the cluster 0, 1, … of every patch or -1 for noise, [B,N,N] to [B,N] int64 (A.2)."""
    if settings.clustering == "none":
        return torch.full(correlation.shape[:2], NOISE, device=correlation.device)
    if settings.clustering == "hdbscan":
        return hdbscan_clusters(correlation, settings.min_cluster_size)
    parameters = (settings.eps, settings.min_samples)
    return dbscan(correlation, *(adaptive_parameters(correlation.shape[1]) if settings.adaptive_dbscan else parameters))


@stage("proposals")
def propose(
    correlation: Tensor, clusters: Tensor, grid: Size, sizes: Sequence[Size], settings: CLIPtraseSettings
) -> list[MaskProposals]:
    """Turn clusters into masks (A.2, Figure 3).

    Args:
        correlation: [B,N,N], one row per patch.
        clusters: [B,N] int64, -1 for noise.
        grid: (h, w) with h·w = N.
        sizes: (H, W) of the masks of each image. Images of one size are processed together.
        settings: of the method.
    """
    options = {"upsample": settings.mask_upsample, "filter_size": settings.median_filter}
    if len(set(sizes)) == 1:
        return propose_masks(correlation, clusters, grid, sizes[0], **options)
    rows = zip(correlation.split(1), clusters.split(1), sizes, strict=True)
    return [propose_masks(row, labels, grid, size, **options)[0] for row, labels, size in rows]


@stage("classification")
def compute_word_logits(
    features: DenseFeatures, text: TextFeatures, scale: float | Tensor, settings: CLIPtraseSettings
) -> Tensor:
    """Return the logits of every word on the grid, [B,R,h,w] (A.3).

    Args:
        features: of the images.
        text: of the words.
        scale: the exponential of CLIP's logit scale, > 0.
        settings: of the method.
    """
    class_token = features.class_token if settings.cls_logit_weight else None
    logits = classify.patch_logits(features.patches, text.features, scale, class_token)  # [B,N,R]
    if settings.cls_logit_bias:
        assert features.class_token is not None, "Combination refuses a method without"
        logits += settings.cls_logit_bias * classify.patch_logits(features.class_token[:, None], text.features, scale)
    return logits.unflatten(1, features.grid).permute(0, 3, 1, 2)  # [B,R,h,w]


@stage("classification")
def classify_masks(
    masks: Sequence[MaskProposals], logits: Tensor, text: TextFeatures, settings: CLIPtraseSettings
) -> list[classify.Classification]:
    """Give every mask a class (A.3).

    Args:
        masks: of each image, all of one size.
        logits: [B,R,h,w] of the words.
        text: of the words.
        settings: of the method.
    """
    size = (masks[0].assignment.shape[0], masks[0].assignment.shape[1])
    labels = classify.pixel_labels(logits, text.class_index, size)  # [B,H,W]
    counts, classes = [len(proposals) for proposals in masks], len(text.classes)
    if settings.classification == "vote":
        return classify.vote(labels, [proposals.assignment for proposals in masks], counts, classes)
    return [
        classify.mean(pixels, proposals.assignment, count, scores, text.class_index, classes)
        for proposals, count, pixels, scores in zip(masks, counts, labels, logits, strict=True)
    ]


@stage("refinement")
def refine(label_map: Tensor, image: Tensor, settings: CLIPtraseSettings) -> ClassShares | None:
    """Refine a label map [H,W] by the colours of its image [3,H',W'], of any size; None without a refinement."""
    if settings.refinement == "none":
        return None
    size = (label_map.shape[0], label_map.shape[1])
    pixels = image[None].to(label_map.device).float()
    colours = F.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)[0]  # [3,H,W]
    return pamr(label_map, colours, settings.refinement_steps)


def pool_masks(features: DenseFeatures, index: int, masks: MaskProposals) -> Tensor:
    """Return the mean feature of each mask of an image, [Q,D]; of the whole image, [1,D], if Q is 0.

    Pixels count for the mask they are assigned to. The soft maps overlap and are not used.

    Args:
        features: of the batch.
        index: of the image.
        masks: of the image.
    """
    weights = region_weights(masks.assignment, max(1, len(masks)), features.grid)  # [Q,N]
    return mask_average_pooling(weights.float(), features.patches[index])
