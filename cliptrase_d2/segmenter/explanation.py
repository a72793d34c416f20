"""Why an image is segmented as it is: what one of its patches looks at, and which patches go together."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cliptrase_d2.mask_sources import CorrelationSource
from cliptrase_d2.pipeline.clustering import NOISE
from cliptrase_d2.pipeline.correlation import patch_correlation
from cliptrase_d2.pipeline.global_patches import global_patches, mean_attention, received_shares
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.pipeline.settings import Method
from cliptrase_d2.segmenter.image_input import ImageLike
from cliptrase_d2.segmenter.segmenter import Segmenter
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.precision import autocast


@dataclass(frozen=True, eq=False)
class Explanation:
    """What CLIP sees in an image beside one of its patches, and what the method makes of it (supplement, A.1 and D).

    L is the number of the image tower's blocks; index 0 is the first.

    Attributes:
        image: [H,W,3] uint8 RGB, what the maps describe: upright, and with the protocol ``center_crop`` the crop.
        patch: (row, column) of the patch that was pointed at.
        attention: [L,h,w] float32 in [0,1], what that patch gives to every patch in each block's ordinary attention,
            mean over heads; what is missing to a sum of 1 goes to the class token.
        recovered: [L,h,w] float32, its semantic correlation (SCR) in each block as the method has it: a cosine in
            [-1,1], or, less what is global, one in [0,2].
        global_patches: [L,h,w] bool, those that receive over three times their share of each block's attention.
        clusters_before: [h,w] int64, clusters 0, 1, … without taking away the global patches, -1 for noise.
        clusters: [h,w] int64, the same as the method has them.
        masks_before: [H,W] int64, the masks 0, 1, … of ``clusters_before`` as they divide the image, noise too; -1
            everywhere where there is no cluster.
        masks: [H,W] int64, the same of ``clusters``.
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
    """Look at an image from one of its patches.

    Of all blocks but the one that is clustered only the patch's own rows are kept, so that a few matrices of N×N are
    alive at once, and not L.

    Args:
        segmenter: its model is CLIPtrase, sees the image as a whole, and makes masks of its own clusters.
        image: whatever the segmenter takes.
        point: (x, y) in pixels of the image as it is looked at, turned by its EXIF orientation; the patch under it
            is explained.
    Raises:
        InputError: an image or a model that cannot be used, or a point outside of what the model sees.
    """
    model = _explained(segmenter)
    part, size = segmenter.shown(image)
    x, y = segmenter.protocol.place(point, size)
    pixels = segmenter.protocol.model_input(part)["image"].to(model.device)  # [3,H',W']
    grid = pixels.shape[1] // model.patch_multiple, pixels.shape[2] // model.patch_multiple
    patch = _cell(y, part.height, grid[0]), _cell(x, part.width, grid[1])
    rows = _rows_of(model, model.tower.normalise(pixels)[None], patch[0] * grid[1] + patch[1])
    as_it_is = replace(model.method, suppress_global_patches=False)
    before, after = (_clusters(method, rows.clustered, grid, part) for method in (as_it_is, model.method))
    return Explanation(
        image=np.array(part),
        patch=patch,
        attention=_on_grid(rows.attention, grid),
        recovered=_on_grid(rows.recovered, grid),
        global_patches=_on_grid(rows.is_global, grid),
        clusters_before=before[0],
        clusters=after[0],
        masks_before=before[1],
        masks=after[1],
        block=model.tower.correlation_layer,
    )


@dataclass(frozen=True)
class _Rows:
    """Of one patch in L blocks.

    Attributes:
        attention, recovered: [N] of every block.
        is_global: [N] bool of every block; does not depend on the patch.
        clustered: [1,N+1,N+1] correlation of the one block that is clustered.
    """

    attention: list[Tensor]
    recovered: list[Tensor]
    is_global: list[Tensor]
    clustered: Tensor


def _rows_of(model: CLIPtrase, images: Tensor, index: int) -> _Rows:
    """What the blocks say of patch `index` of one image, [1,3,H,W] normalised."""
    attention, recovered, is_global = [], [], []
    with autocast(model.device, model.precision):  # of the tower; what follows is float32 in any case
        for block, (query, key, value) in enumerate(model.tower.layers(images)):
            weights = patch_correlation(mean_attention(query, key))  # [1,N,N]
            attention.append(weights[0, index].clone())  # a view would keep the whole matrix alive
            is_global.append(global_patches(received_shares(weights))[0])
            correlation = model.method.token_correlation(query, key, value)  # [1,N+1,N+1]
            recovered.append(model.method.patch_rows(correlation)[0, index].clone())
            if block == model.tower.correlation_layer:
                clustered = correlation
    return _Rows(attention, recovered, is_global, clustered)


def _clusters(
    method: Method, correlation: Tensor, grid: tuple[int, int], part: Image.Image
) -> tuple[np.ndarray, np.ndarray]:
    """Clusters [h,w] of a correlation with the class token first, and their masks [H,W]."""
    rows = method.patch_rows(correlation)
    labels = method.cluster(rows)  # [1,N]
    masks = method.masks_of(rows, labels, grid, (part.height, part.width))[0]
    assignment = masks.assignment if len(masks) else torch.full_like(masks.assignment, NOISE)
    return labels.view(grid).cpu().numpy(), assignment.cpu().numpy()


def _cell(place: int, pixels: int, cells: int) -> int:
    """Which of equal cells the middle of a pixel lies in."""
    return (2 * place + 1) * cells // (2 * pixels)


def _on_grid(rows: list[Tensor], grid: tuple[int, int]) -> np.ndarray:
    return torch.stack(rows).view(-1, *grid).cpu().numpy()


def _explained(segmenter: Segmenter) -> CLIPtrase:
    """The segmenter's model, where it works the way that is explained.

    Raises:
        InputError: it works another way.
    """
    model = segmenter.model
    if not isinstance(model, CLIPtrase):
        got, allowed = "SAN, whose masks are its queries', not clusters", "CLIPtrase"
        raise InputError("MODEL.META_ARCHITECTURE", got, "Choose a configuration without SAN.", allowed=allowed)
    if model.window is not None:
        got = f"{segmenter.protocol.name}, whose windows have an attention each and none for the image"
        raise InputError("TEST.PROTOCOL", got, "Choose one of these.", allowed="whole or center_crop")
    if type(model.mask_source) is not CorrelationSource:
        got, allowed = f"masks of {type(model.mask_source).__name__}", "scr, clusters of CLIP's own correlation"
        raise InputError("MODEL.MASKS.SOURCE", got, "Leave it out.", allowed=allowed)
    if model.method.clustering == "none":
        raise InputError(
            "MODEL.CLIPTRASE.CLUSTERING", "'none'", "Choose one of these.", allowed="'dbscan' or 'hdbscan'"
        )
    return model
