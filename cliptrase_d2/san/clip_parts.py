"""The parts of SAN's CLIP, with weights of their own or waiting for those of MODEL.WEIGHTS."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from open_clip.model import CLIP
from torch import Tensor

from cliptrase_d2.clip.load import build_clip, build_skeleton
from cliptrase_d2.clip.open_clip_modules import uses_quick_gelu
from cliptrase_d2.clip.weights_source import find_tag
from cliptrase_d2.d2 import CfgNode
from cliptrase_d2.d2.safe_checkpoint import QUICK_GELU, peek_checkpoint
from cliptrase_d2.pipeline.open_vocabulary import load_clip_from_config, require_rgb
from cliptrase_d2.san.split_tower import FirstBlocks, LastBlocks, WordClassifier

logger = logging.getLogger(__name__)


class ClipParts(NamedTuple):
    """One CLIP, divided into SAN's parts. Their names are those of the state dict.

    Attributes:
        ov_classifier: the text tower.
    """

    clip_visual_extractor: FirstBlocks
    clip_rec_head: LastBlocks
    ov_classifier: WordClassifier

    @classmethod
    def split(cls, clip: CLIP, block: int) -> ClipParts:
        """Divide a CLIP before a block; its modules are shared, not copied.

        Raises:
            InputError: the tower has no such block, or it is the first.
        """
        return cls(FirstBlocks(clip.visual, block), LastBlocks(clip.visual, block), WordClassifier(clip))


def get_clip(cfg: CfgNode) -> tuple[CLIP, bool]:
    """Return the CLIP of a configuration, and whether its weights are those of MODEL.WEIGHTS, still to be loaded.

    A checkpoint of SAN contains all of CLIP. If MODEL.WEIGHTS is such a file, nothing is downloaded.

    Raises:
        InputError: the model or its weights cannot be used.
    """
    path = cfg.MODEL.WEIGHTS
    checkpoint = peek_checkpoint(path) if Path(path).is_file() else {"model": {}}
    name, pretrained = cfg.MODEL.CLIP.NAME, cfg.MODEL.CLIP.PRETRAINED
    # Without a record in the checkpoint, only a tag or the file that was named before tells the activation.
    needs_file = QUICK_GELU not in checkpoint and bool(pretrained) and find_tag(name, pretrained) is None
    if needs_file or not _holds_clip(checkpoint["model"], name, cfg.MODEL.SAN.FEATURE_LAST_LAYER_IDX):
        # Without weights, as in the published SAN, whose CLIP is OpenAI's.
        return load_clip_from_config(cfg, quick_gelu=True), False
    require_rgb(cfg)
    clip, reason = build_clip(name, pretrained, quick_gelu=checkpoint.get(QUICK_GELU))
    activation = "QuickGELU" if uses_quick_gelu(clip.visual) else "GELU"
    logger.info("CLIP %s: all weights are in %s; activation: %s, %s", name, path, activation, reason)
    return clip, True


def _holds_clip(weights: Mapping[str, Tensor], name: str, block: int) -> bool:
    """Return whether weights contain all parts of a CLIP, with the right shapes."""
    if not weights:
        return False
    with torch.device("meta"):
        parts = ClipParts.split(build_skeleton(name), block)
    shapes = {
        f"{part}.{tensor}": value.shape
        for part, module in parts._asdict().items()
        for tensor, value in module.state_dict().items()
    }
    return all(key in weights and weights[key].shape == shape for key, shape in shapes.items())
