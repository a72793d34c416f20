"""Explanation of a segmentation: the attention and the correlation of one patch, and the clusters of all patches."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cliptrase_d2.clip.visual import VisualTower
from cliptrase_d2.mask_sources import CorrelationClusters
from cliptrase_d2.pipeline import stages
from cliptrase_d2.pipeline.clustering import NOISE
from cliptrase_d2.pipeline.correlation import patch_correlation
from cliptrase_d2.pipeline.global_patches import global_patches, mean_attention, received_shares
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.segmenter.image_input import ImageLike
from cliptrase_d2.segmenter.segmenter import Segmenter
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.tensors import autocast


@dataclass(frozen=True, eq=False)
class Explanation:
    """The attention and correlation of one patch, and the clusters and masks of the method (supplement, A.1 and D).

    L is the number of blocks of the image tower; index 0 is the first block.

    Attributes:
        image: [H,W,3] uint8 RGB that the maps describe: upright, and with the protocol ``center_crop`` the crop.
        patch: (row, column) of the selected patch.
        attention: [L,h,w] float32 in [0,1], attention of the patch to every patch in each block as trained, mean over
            heads. The remainder to a sum of 1 goes to the class token.
        recovered: [L,h,w] float32, semantic correlation (SCR) of the patch in each block: a cosine in [-1,1], or in
            [0,2] with the class token's row subtracted.
        global_patches: [L,h,w] bool, patches that receive more than three times the uniform share of a block's
            attention.
        clusters_before: [h,w] int64, clusters 0, 1, … without suppressing global patches, -1 for noise.
        clusters: [h,w] int64, clusters of the method.
        masks_before: [H,W] int64, masks 0, 1, … of ``clusters_before`` as they divide the image, noise included; -1
            everywhere if there is no cluster.
        masks: [H,W] int64, masks of ``clusters``.
        block: index of the block whose correlation is clustered.
    """

    image: np.ndarray
    patch: tuple[int, int]
    attention: np.ndarray
    recovered: np.ndarray
    global_patches: np.ndarray
    clusters_before: np.ndarray
    clusters: np.ndarray
    masks_before: np.ndarray
    masks: np.ndarray
    block: int


@torch.inference_mode()
def explain(segmenter: Segmenter, image: ImageLike, point: tuple[int, int]) -> Explanation:
    """Explain a segmentation from one of the image's patches.

    Only the patch's own rows of each block are kept, so a few N×N matrices are in memory at once instead of L.

    Args:
        segmenter: its model is CLIPtrase on whole images with clusters of its own correlation.
        image: anything that the segmenter takes.
        point: (x, y) in pixels of the upright image; the patch there is explained.
    Raises:
        InputError: the image or the model cannot be used, or the point is outside the model's input.
    """
    model = _check_model(segmenter)
    part, size = segmenter.get_described_part(image)
    x, y = segmenter.protocol.map_point(point, size)
    images = model.preprocess([segmenter.protocol.prepare_input(part)])  # [1,3,H',W']
    grid = model.tower.grid(images)
    patch = _find_cell(y, part.height, grid[0]), _find_cell(x, part.width, grid[1])
    block = model.settings.correlation_layer % model.tower.depth
    rows = _compute_rows(model, images, patch[0] * grid[1] + patch[1], block)
    noisy = replace(model.settings, suppress_global_patches=False)
    before, after = (_make_clusters(rows.clustered, grid, part, settings) for settings in (noisy, model.settings))
    return Explanation(
        image=np.array(part),
        patch=patch,
        attention=_to_grid(rows.attention, grid),
        recovered=_to_grid(rows.recovered, grid),
        global_patches=_to_grid(rows.is_global, grid),
        clusters_before=before[0],
        clusters=after[0],
        masks_before=before[1],
        masks=after[1],
        block=block,
    )


@dataclass(frozen=True)
class _Rows:
    """Rows of one patch in L blocks.

    Attributes:
        attention, recovered: [N] of every block.
        is_global: [N] bool of every block, the same for all patches.
        clustered: [1,N+1,N+1] correlation of the block that is clustered.
    """

    attention: list[Tensor]
    recovered: list[Tensor]
    is_global: list[Tensor]
    clustered: Tensor


def _compute_rows(model: CLIPtrase, images: Tensor, index: int, clustered_block: int) -> _Rows:
    """Compute the rows of patch `index` of one image, [1,3,H,W] normalised."""
    assert isinstance(model.tower, VisualTower), "the published protocol alone runs others"
    attention, recovered, is_global = [], [], []
    with autocast(model.device, model.precision):  # for the tower; the rows are float32
        for block, qkv in enumerate(model.tower.block_qkv(images)):
            weights = patch_correlation(mean_attention(*qkv[:2]))  # [1,N,N]
            attention.append(weights[0, index].clone())  # a view would keep the matrix in memory
            is_global.append(global_patches(received_shares(weights))[0])
            correlation = stages.correlate_tokens(qkv, model.settings)  # [1,N+1,N+1]
            recovered.append(stages.select_patch_rows(correlation, model.settings)[0, index].clone())
            if block == clustered_block:
                clustered = correlation
    return _Rows(attention, recovered, is_global, clustered)


def _make_clusters(
    correlation: Tensor, grid: tuple[int, int], part: Image.Image, settings: CLIPtraseSettings
) -> tuple[np.ndarray, np.ndarray]:
    """Return the clusters [h,w] of a correlation [1,N+1,N+1] of all tokens, and their masks [H,W]."""
    rows = stages.select_patch_rows(correlation, settings)
    clusters = stages.cluster(rows, settings)  # [1,N]
    masks = stages.propose(rows, clusters, grid, [(part.height, part.width)], settings)[0]
    assignment = masks.assignment if len(masks) else torch.full_like(masks.assignment, NOISE)
    return clusters.view(grid).cpu().numpy(), assignment.cpu().numpy()


def _find_cell(position: int, pixels: int, cells: int) -> int:
    """Return the index of the cell, of equal cells along a side, with the centre of a pixel."""
    return (2 * position + 1) * cells // (2 * pixels)


def _to_grid(rows: list[Tensor], grid: tuple[int, int]) -> np.ndarray:
    return torch.stack(rows).view(-1, *grid).cpu().numpy()


def _check_model(segmenter: Segmenter) -> CLIPtrase:
    """Return the segmenter's model if it can be explained.

    Raises:
        InputError: it cannot, with the reason.
    """
    model = segmenter.model
    if not isinstance(model, CLIPtrase):
        got = "SAN, whose masks are not clusters"
        raise InputError("MODEL.META_ARCHITECTURE", got, "Use a configuration of CLIPtrase.")
    if model.window is not None or model.protocol is not None:
        got = f"{segmenter.protocol.name}, whose windows each have an attention of their own"
        raise InputError("TEST.PROTOCOL", got, "Choose one of these.", allowed="whole or center_crop")
    if type(model.mask_source) is not CorrelationClusters:
        got = f"masks of {type(model.mask_source).__name__}, which are not clusters of CLIP's correlation"
        raise InputError("MODEL.MASKS.SOURCE", got, "Use 'scr'.")
    if model.settings.clustering == "none":
        raise InputError("MODEL.CLIPTRASE.CLUSTERING", "'none'", "Choose one of these.", allowed="dbscan or hdbscan")
    return model
