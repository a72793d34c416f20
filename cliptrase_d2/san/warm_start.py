"""CLIPtrase over a sample of training images, and what SAN's queries start from (supplement, B.3)."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from cliptrase_d2.d2 import CfgNode, comm
from cliptrase_d2.data.loader import list_records
from cliptrase_d2.data.mapper import EvaluationMapper
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.san.model import SAN
from cliptrase_d2.san.query_projection import fit_projection, query_embeddings

logger = logging.getLogger(__name__)


class MaskSample(NamedTuple):
    """What a warm start is made of.

    Attributes:
        features: [M,D] of all masks.
        images: how many were looked at.
        without: how many of them have no mask.
    """

    features: Tensor
    images: int
    without: int

    def __str__(self) -> str:
        return f"{len(self.features)} masks of {self.images} images ({self.without} without a mask)"


def start_queries(cfg: CfgNode, model: SAN) -> None:
    """Give the model the warm start that MODEL.SAN.QUERY_INIT asks for; nothing happens for "none".

    Args:
        cfg: with the training data set.
        model: before its first step; changed in place, the same in every process.
    Raises:
        InputError: images that cannot be used, or too few masks in them.
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


def sample_masks(cfg: CfgNode, dataset: str) -> MaskSample:
    """MAP features of CLIPtrase's masks in MODEL.SAN.QUERY_INIT_IMAGES images, evenly spread over a data set.

    Images are seen at the size at which SAN shows them to its CLIP.

    Args:
        cfg: with MODEL.CLIP and MODEL.CLIPTRASE.
        dataset: name of a registered data set; labels are not read.
    Raises:
        InputError: images or settings that cannot be used.
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
    )
    records = list_records(dataset, "stop")
    count = min(max(1, cfg.MODEL.SAN.QUERY_INIT_IMAGES), len(records))
    chosen = [records[index * len(records) // count] for index in range(count)]
    features, without = [], 0
    for record in tqdm(chosen, desc="Warm start", unit="image", disable=not comm.is_main_process()):
        found = _mask_features(model, mapper({"file_name": record["file_name"]}))
        without += not len(found)
        features.append(found)
    return MaskSample(torch.cat(features), count, without)


@torch.inference_mode()
def _mask_features(model: CLIPtrase, given: dict[str, Any]) -> Tensor:
    """[Q,D] of one image, on the CPU; [0,D] where it has no mask."""
    image = model.tower.normalise(given["image"].to(model.device))[None]  # [1,3,H,W]
    scene = model.see(image)
    size = (image.shape[2], image.shape[3])
    masks = model.mask_source(model.tower.pixels(image), scene, [size])[0]
    return model.method.pool(scene, 0, masks)[: len(masks)].float().cpu()
