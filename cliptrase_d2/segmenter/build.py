"""From a configuration to a model that is ready to segment."""

from __future__ import annotations

import logging
from typing import Any

from torch import nn

from cliptrase_d2.d2 import CfgNode, DetectionCheckpointer, build_model
from cliptrase_d2.pipeline.model import CLIPtrase  # registers them, too
from cliptrase_d2.san.checkpoints import load_report
from cliptrase_d2.san.model import SAN  # registers them, too
from cliptrase_d2.utils.errors import InputError

logger = logging.getLogger(__name__)
Segmenting = CLIPtrase | SAN
ARCHITECTURES = (CLIPtrase.__name__, SAN.__name__)


def build_segmenter(cfg: CfgNode) -> Segmenting:
    """The configured model with its weights, on its device, in evaluation mode.

    Raises:
        InputError: another meta-architecture, or weights or settings that cannot be used.
    """
    if cfg.MODEL.META_ARCHITECTURE not in ARCHITECTURES:
        got = repr(cfg.MODEL.META_ARCHITECTURE)
        raise InputError("MODEL.META_ARCHITECTURE", got, "Choose one of these.", allowed=" or ".join(ARCHITECTURES))
    if SAN.__name__ == cfg.MODEL.META_ARCHITECTURE and cfg.TEST.PROTOCOL in ("slide", "tiles"):
        got = f"{cfg.TEST.PROTOCOL!r} with SAN, which sees images as a whole"
        raise InputError("TEST.PROTOCOL", got, "Choose one of these.", allowed="whole or center_crop")
    model = build_model(cfg).eval()
    assert isinstance(model, CLIPtrase | SAN)  # the registry has them under their own names
    if isinstance(model, SAN) and not cfg.MODEL.WEIGHTS:
        logger.warning("MODEL.WEIGHTS is empty: this SAN is UNTRAINED, whatever it says about an image means nothing.")
    load_weights(cfg, model)
    return model


def build_cliptrase(cfg: CfgNode) -> CLIPtrase:
    """The same for what looks into the training-free method.

    Raises:
        InputError: as above, or SAN.
    """
    if CLIPtrase.__name__ != cfg.MODEL.META_ARCHITECTURE:
        got = repr(cfg.MODEL.META_ARCHITECTURE)
        raise InputError("MODEL.META_ARCHITECTURE", got, "Name a configuration of it.", allowed=CLIPtrase.__name__)
    model = build_segmenter(cfg)
    assert isinstance(model, CLIPtrase)
    return model


def load_weights(cfg: CfgNode, model: nn.Module) -> None:
    """Load MODEL.WEIGHTS, if there are any, and log what becomes of every one of them.

    Raises:
        InputError: a file that is missing or damaged, or one for another model.
    """
    if cfg.MODEL.WEIGHTS:
        _Reporting(model).load(cfg.MODEL.WEIGHTS)


class _Reporting(DetectionCheckpointer):
    def _load_file(self, filename: str) -> dict[str, Any]:
        checkpoint = super()._load_file(filename)
        logger.info("%s: %s", filename, load_report(self.model, checkpoint["model"]))
        return checkpoint
