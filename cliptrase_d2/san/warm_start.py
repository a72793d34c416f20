"""Warm starts of SAN from CLIPtrase's masks of training images (supplement, B.3)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from cliptrase_d2.d2 import CfgNode, comm
from cliptrase_d2.data.loader import list_records
from cliptrase_d2.data.mapper import EvaluationMapper
from cliptrase_d2.data.register import get_rendering
from cliptrase_d2.data.rendering import Rendering
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.pipeline.stages import pool_masks
from cliptrase_d2.san.closed_form import FusedMasks, apply_closed_form, count_channels, fit_closed_form
from cliptrase_d2.san.mask_finder import find_masks
from cliptrase_d2.san.model import SAN
from cliptrase_d2.san.query_projection import query_embeddings
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.modules import evaluation_mode

logger = logging.getLogger(__name__)
_NO_OBJECT_IMAGES = 50  # for the embedding of "no object"


class MaskSample(NamedTuple):
    """Mask features of a sample of images.

    Attributes:
        features: [M,D] or [M,E] of all masks.
        images: number of images.
        without: number of images without a mask.
    """

    features: Tensor
    images: int
    without: int

    @classmethod
    def join(cls, features: Sequence[Tensor]) -> MaskSample:
        """Join the mask features [Q,D] of each image."""
        return cls(torch.cat(list(features)), len(features), sum(not len(pooled) for pooled in features))

    def __str__(self) -> str:
        return f"{len(self.features)} masks of {self.images} images ({self.without} without a mask)"


def start_queries(cfg: CfgNode, model: SAN) -> MaskSample | None:
    """Apply the warm start of MODEL.SAN.QUERY_INIT to an untrained model, in place; "none" changes nothing.

    Args:
        cfg: names the training data set.
        model: the same in every process, before and after.
    Returns:
        The masks that it was computed from; None for "none".
    Raises:
        InputError: an image cannot be used, there are too few masks, or the model has no weights of CLIP yet.
    """
    kind = cfg.MODEL.SAN.QUERY_INIT
    if kind == "none":
        return None
    side, dataset = model.side_adapter_network, cfg.DATASETS.TRAIN[0]
    seed, queries, width = max(0, cfg.SEED), side.query_embed.shape[1], side.query_embed.shape[2]
    if kind == "closed_form":
        images = sample_fused_masks(cfg, model, dataset)
        apply_closed_form(side, fit_closed_form(images, queries, count_channels(side), seed))
        _start_no_object(cfg, model, dataset)
        model.needs_training = False
        sample = MaskSample.join([image.pooled for image in images])
        logger.info("Warm start (%s): %s", kind, sample)
        return sample
    sample = sample_masks(cfg, dataset)
    with torch.no_grad():
        side.query_embed.copy_(query_embeddings(sample.features, queries, width, seed))
    logger.info("Warm start (%s): %s", kind, sample)
    return sample


@torch.inference_mode()
def sample_masks(cfg: CfgNode, dataset: str) -> MaskSample:
    """Pool the features of CLIPtrase's masks in MODEL.SAN.QUERY_INIT_IMAGES images, evenly spread over a data set.

    Images have the size at which SAN shows them to its CLIP.

    Args:
        cfg: with MODEL.CLIP and MODEL.CLIPTRASE.
        dataset: name of a registered data set. Its labels are not read.
    Raises:
        InputError: an image or a setting cannot be used.
    """
    model = CLIPtrase(cfg).to(cfg.MODEL.DEVICE).eval()
    features = []
    for image in _read_images(cfg, dataset, cfg.MODEL.SAN.CLIP_RESOLUTION, model.patch_multiple, model.resampling):
        pixels = model.preprocess([{"image": image}])  # [1,3,H,W]
        result = model.segment(pixels, None, [(pixels.shape[2], pixels.shape[3])])
        masks = result.masks[0]
        features.append(pool_masks(result.features, 0, masks)[: len(masks)].float().cpu())  # [Q,D]
    return MaskSample.join(features)


@torch.inference_mode()
def sample_fused_masks(cfg: CfgNode, model: SAN, dataset: str) -> list[FusedMasks]:
    """Pool CLIP's fused features over CLIPtrase's masks of the images of `sample_masks`, with SAN's own CLIP.

    Args:
        cfg: with MODEL.CLIPTRASE.
        model: its last fusion counts.
        dataset: as for `sample_masks`.
    Raises:
        InputError: an image or a setting cannot be used, or the model has no weights of CLIP yet.
    """
    if model.needs_clip:
        got = "'closed_form' with a MODEL.WEIGHTS that contains CLIP, which is loaded later"
        raise InputError("MODEL.SAN.QUERY_INIT", got, "Set it to none.")
    settings = CLIPtraseSettings.from_config(cfg)
    generator = torch.Generator().manual_seed(max(0, cfg.SEED))
    samples = []
    for image in _read_images(cfg, dataset, 1.0, model.size_divisibility, model.resampling):
        tokens = model.encode_image(model.normalise(image)[None])
        masks = find_masks(tokens, model.clip_rec_head, settings)[0].cpu()  # [Q,N]
        features = model.side_adapter_network.normalise_fused(tokens)[0].flatten(1).T.float().cpu()  # [N,E]
        samples.append(FusedMasks.pool(features, masks, generator))
    return samples


@torch.no_grad()
def _start_no_object(cfg: CfgNode, model: SAN, dataset: str) -> None:
    """Set the embedding of "no object" to the mean embedding of all queries in some images, in place.

    Most queries of an image have no mask. A random embedding would be far from all of theirs, and its correction would
    dominate the first steps.
    """
    images = islice(_read_images(cfg, dataset, 1.0, model.size_divisibility, model.resampling), _NO_OBJECT_IMAGES)
    with evaluation_mode(model):
        embeddings = [model.predict_masks(model.normalise(image)[None])[-1][1][0] for image in images]  # each [Q,D]
    model.ov_classifier.bg_embed.copy_(torch.cat(embeddings).mean(0, keepdim=True))


def _read_images(cfg: CfgNode, dataset: str, factor: float, multiple: int, resampling: str) -> Iterator[Tensor]:
    """Yield MODEL.SAN.QUERY_INIT_IMAGES images [3,H,W] uint8 RGB, evenly spread over a data set.

    Args:
        cfg: with the sizes of evaluations.
        dataset: name of a registered data set.
        factor: of these sizes.
        multiple: of the sides, in pixels.
        resampling: filter that resizes images.
    Raises:
        InputError: an image cannot be used.
    """
    mapper = EvaluationMapper.for_dataset(
        dataset,
        protocol="whole",
        short_side=round(cfg.INPUT.MIN_SIZE_TEST * factor),
        max_size=round(cfg.INPUT.MAX_SIZE_TEST * factor),
        patch_size=multiple,
        resampling=resampling,
        max_pixels=cfg.INPUT.MAX_PIXELS,
        rendering=get_rendering(dataset).over(Rendering(cfg.INPUT.BANDS, cfg.INPUT.STRETCH)),
    )
    records = list_records(dataset, "stop")
    count = min(max(1, cfg.MODEL.SAN.QUERY_INIT_IMAGES), len(records))
    chosen = [records[index * len(records) // count] for index in range(count)]
    for record in tqdm(chosen, desc="Warm start", unit="image", disable=None if comm.is_main_process() else True):
        yield mapper({"file_name": record["file_name"]})["image"]
