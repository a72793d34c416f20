"""From a configuration to a model that is ready to segment."""

from __future__ import annotations

from cliptrase_d2.d2 import CfgNode, DetectionCheckpointer, build_model
from cliptrase_d2.errors import InputError
from cliptrase_d2.meta_arch import CLIPtrase  # registers it, too


def build_segmenter(cfg: CfgNode) -> CLIPtrase:
    """The configured model with its weights, on its device, in evaluation mode.

    Raises:
        InputError: another meta-architecture, or weights or settings that cannot be used.
    """
    if CLIPtrase.__name__ != cfg.MODEL.META_ARCHITECTURE:
        allowed = f"{CLIPtrase.__name__}, which segments without training"
        raise InputError("MODEL.META_ARCHITECTURE", repr(cfg.MODEL.META_ARCHITECTURE), allowed, "Choose it.")
    model = build_model(cfg).eval()
    assert isinstance(model, CLIPtrase)  # the registry has it under its own name
    if cfg.MODEL.WEIGHTS:
        DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    return model
