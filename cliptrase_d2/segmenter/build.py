"""Build the configured model, with its weights and on its device."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from cliptrase_d2.config import ARGUMENT_KEYS, load_config
from cliptrase_d2.d2 import CfgNode, DetectionCheckpointer
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.pipeline.parts import WindowSettings
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.san.checkpoints import describe_loading
from cliptrase_d2.san.model import SAN
from cliptrase_d2.utils.errors import InputError, check_choice, name_arguments

logger = logging.getLogger(__name__)
SegmentationModel = CLIPtrase | SAN
# Not from Detectron2's registry, in which "SAN" may be the published package's.
ARCHITECTURES: dict[str, type[CLIPtrase | SAN]] = {"CLIPtrase": CLIPtrase, "SAN": SAN, "CLIPtraseSAN": SAN}


def build_segmenter(cfg: CfgNode) -> SegmentationModel:
    """Build the configured model in evaluation mode.

    Raises:
        InputError: the architecture is unknown, or weights or settings cannot be used.
    """
    check_choice("MODEL.META_ARCHITECTURE", cfg.MODEL.META_ARCHITECTURE, ARCHITECTURES)
    architecture = ARCHITECTURES[cfg.MODEL.META_ARCHITECTURE]
    if architecture is SAN and cfg.TEST.PROTOCOL in ("slide", "tiles", "published"):
        got = f"{cfg.TEST.PROTOCOL!r}, but SAN takes whole images only"
        raise InputError("TEST.PROTOCOL", got, "Choose one of these.", allowed="whole or center_crop")
    with name_arguments(ARGUMENT_KEYS):
        model = architecture(cfg).to(cfg.MODEL.DEVICE).eval()
    load_weights(cfg, model)
    if isinstance(model, SAN):
        model.check_weights()
        if cfg.MODEL.SAN.ALLOW_UNTRAINED and not cfg.MODEL.WEIGHTS:
            logger.warning("MODEL.WEIGHTS is empty: this SAN is UNTRAINED, and its results are meaningless.")
    return model


def prepare_segmenter(cfg: CfgNode, model: Any = None) -> Any:
    """Build the configured model, or give an existing CLIPtrase the configured method, masks, settings and protocol.

    CLIP and the text features of the existing model stay. A mask source or second vision model that it had before is
    not built again.

    Raises:
        InputError: as `build_segmenter`.
    """
    if model is None:
        return build_segmenter(cfg)
    if isinstance(model, CLIPtrase):
        num_built = model.part_models.num_built
        with name_arguments(ARGUMENT_KEYS):
            settings, windows = CLIPtraseSettings.from_config(cfg), WindowSettings.from_config(cfg)
            model.configure(settings, mask_source=model.part_models.from_config(cfg), windows=windows)
        if model.part_models.num_built > num_built:
            load_weights(cfg, model)  # a checkpoint may hold weights of the new part
    return model


def build_cliptrase(cfg: CfgNode) -> CLIPtrase:
    """Build the configured model, which must be CLIPtrase.

    Raises:
        InputError: as `build_segmenter`, or the architecture is SAN.
    """
    if CLIPtrase.__name__ != cfg.MODEL.META_ARCHITECTURE:
        got = f"{cfg.MODEL.META_ARCHITECTURE!r}, but this needs {CLIPtrase.__name__}"
        raise InputError("MODEL.META_ARCHITECTURE", got, f"Use a configuration of {CLIPtrase.__name__}.")
    model = build_segmenter(cfg)
    assert isinstance(model, CLIPtrase)
    return model


def load_cliptrase_config(name: str, key: str, device: str) -> CfgNode:
    """Return a configuration of CLIPtrase that another configuration names, on the device of that one.

    Args:
        name: file, or name of a configuration of the package.
        key: whose value it is.
        device: MODEL.DEVICE.
    Raises:
        InputError: it cannot be read, or is not one of CLIPtrase.
    """
    cfg = load_config(name)
    if CLIPtrase.__name__ != cfg.MODEL.META_ARCHITECTURE:
        raise InputError(key, f"{name} is {cfg.MODEL.META_ARCHITECTURE}", "Name a configuration of CLIPtrase.")
    cfg.MODEL.DEVICE = device
    return cfg


def load_weights(cfg: CfgNode, model: nn.Module) -> None:
    """Load MODEL.WEIGHTS, if set, and log which tensors were loaded, missing or unexpected.

    Raises:
        InputError: the file is missing, damaged, or of another model.
    """
    if cfg.MODEL.WEIGHTS:
        _LoggingCheckpointer(model).load(cfg.MODEL.WEIGHTS)


def resolve_device(cfg: CfgNode) -> bool:
    """Check MODEL.DEVICE. Set it to "cpu" if it names CUDA and the machine has no CUDA device.

    Returns:
        Whether the CPU replaced CUDA, for the log.
    Raises:
        InputError: PyTorch does not know the device, or the machine does not have it.
    """
    name = cfg.MODEL.DEVICE
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise _missing_device(name) from error
    if device.type == "cuda" and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
        return True
    try:
        torch.empty(1, device=device)
    # PyTorch has many errors for it: no such backend, index out of range, not compiled in.
    except (RuntimeError, AssertionError, ImportError) as error:
        raise _missing_device(name) from error
    return False


def _missing_device(name: str) -> InputError:
    devices = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    devices += ["mps"] if torch.backends.mps.is_available() else []
    return InputError("MODEL.DEVICE", repr(name), "Choose a device of this machine.", allowed=", ".join(devices))


class _LoggingCheckpointer(DetectionCheckpointer):
    def _load_file(self, filename: str) -> dict[str, Any]:
        checkpoint = super()._load_file(filename)
        logger.info("%s: %s", filename, describe_loading(self.model, checkpoint["model"]))
        return checkpoint
