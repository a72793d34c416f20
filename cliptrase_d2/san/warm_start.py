"""Warm start of SAN's queries from CLIPtrase's masks of training images (supplement, B.3)."""

from __future__ import annotations

import logging
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
from cliptrase_d2.pipeline.stages import pool_masks
from cliptrase_d2.san.model import SAN
from cliptrase_d2.san.query_projection import fit_projection, query_embeddings

logger = logging.getLogger(__name__)


class MaskSample(NamedTuple):
    """Mask features of a sample of images.

    Attributes:
        features: [M,D] of all masks.
        images: number of images.
        without: number of images without a mask.
    """

    features: Tensor
    images: int
    without: int

    def __str__(self) -> str:
        return f"{len(self.features)} masks of {self.images} images ({self.without} without a mask)"


def start_queries(cfg: CfgNode, model: SAN) -> None:
    """Apply the warm start of MODEL.SAN.QUERY_INIT to an untrained model, in place; "none" changes nothing.

    Args:
        cfg: names the training data set.
        model: the same in every process, before and after.
    Raises:
        InputError: an image cannot be used, or there are too few masks.
    """
    kind = cfg.MODEL.SAN.QUERY_INIT
    if kind == "none":
        return
    sample = sample_masks(cfg, cfg.DATASETS.TRAIN[0])
    side = model.side_adapter_network
    seed, width = max(0, cfg.SEED), side.query_embed.shape[2]
    with torch.no_grad():
        if kind == "prototypes":
            side.query_embed.copy_(query_embeddings(sample.features, side.query_embed.shape[1], width, seed))
        else:
            assert model.query_init is not None  # "per_image" has one
            model.query_init.start_from(fit_projection(sample.features, width, seed))
    logger.info("Warm start (%s): %s", kind, sample)


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
    factor = cfg.MODEL.SAN.CLIP_RESOLUTION
    mapper = EvaluationMapper.for_dataset(
        dataset,
        protocol="whole",
        short_side=round(cfg.INPUT.MIN_SIZE_TEST * factor),
        max_size=round(cfg.INPUT.MAX_SIZE_TEST * factor),
        patch_size=model.patch_multiple,
        max_pixels=cfg.INPUT.MAX_PIXELS,
        rendering=get_rendering(dataset).over(Rendering(cfg.INPUT.BANDS, cfg.INPUT.STRETCH)),
    )
    records = list_records(dataset, "stop")
    count = min(max(1, cfg.MODEL.SAN.QUERY_INIT_IMAGES), len(records))
    chosen = [records[index * len(records) // count] for index in range(count)]
    features = []
    for record in tqdm(chosen, desc="Warm start", unit="image", disable=None if comm.is_main_process() else True):
        image = model.preprocess([mapper({"file_name": record["file_name"]})])  # [1,3,H,W]
        result = model.segment(image, None, [(image.shape[2], image.shape[3])])
        masks = result.masks[0]
        features.append(pool_masks(result.features, 0, masks)[: len(masks)].float().cpu())  # [Q,D]
    return MaskSample(torch.cat(features), count, sum(not len(pooled) for pooled in features))
