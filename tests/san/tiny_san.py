"""A SAN small enough to train in a test, around the tiny CLIP."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from cliptrase_d2.d2 import CfgNode, build_model
from cliptrase_d2.san.model import SAN
from tests.pipeline.tiny_segmenter import tiny_config

# Of the tiny CLIP's three blocks one sees and two recognise.
TINY_SAN = (
    *("MODEL.META_ARCHITECTURE", "SAN"),
    *("MODEL.SAN.FEATURE_LAST_LAYER_IDX", "1"),
    *("MODEL.SAN.TRAIN_NUM_POINTS", "64"),
    *("MODEL.SIDE_ADAPTER.FUSION_MAP", "['0->0', '1->1']"),
    *("MODEL.SIDE_ADAPTER.DEEP_SUPERVISION_IDXS", "[1, 2]"),
    *("MODEL.SIDE_ADAPTER.WIDTH", "24"),
    *("MODEL.SIDE_ADAPTER.DEPTH", "2"),
    *("MODEL.SIDE_ADAPTER.HEADS", "2"),
    *("MODEL.SIDE_ADAPTER.NUM_QUERIES", "6"),
    *("MODEL.SIDE_ADAPTER.IMAGE_SIZE", "64"),
    *("MODEL.SIDE_ADAPTER.DECODER_CHANNELS", "16"),
    *("MODEL.CLIPTRASE.VOCABULARY", "['sky;blue', 'grass', 'star']"),
    *("MODEL.CLIP.POS_EMBED_RESIZE", "output_size"),
)


def tiny_san_config(folder: Path, *options: str) -> CfgNode:
    """The configuration of the tiny SAN, `options` last."""
    return tiny_config(folder, *TINY_SAN, *options)


def tiny_san(folder: Path, *options: str, seed: int = 0) -> SAN:
    """The tiny SAN, with seeded weights, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_model(tiny_san_config(folder, *options)).eval()


def picture(height: int = 64, width: int = 96, seed: int = 0) -> Tensor:
    """A smooth picture of random colours, [3,H,W] in 0 to 255."""
    colours = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * 255
    return torch.nn.functional.interpolate(colours, (height, width), mode="bilinear", align_corners=False)[0]
