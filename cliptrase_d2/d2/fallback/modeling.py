"""Serves `detectron2.modeling`: three registries and `build_model`."""

from __future__ import annotations

import torch
from fvcore.common.config import CfgNode
from fvcore.common.registry import Registry
from torch import nn

META_ARCH_REGISTRY = Registry("META_ARCH")
BACKBONE_REGISTRY = Registry("BACKBONE")
SEM_SEG_HEADS_REGISTRY = Registry("SEM_SEG_HEADS")


def build_model(cfg: CfgNode) -> nn.Module:
    """The model `cfg.MODEL.META_ARCHITECTURE` on `cfg.MODEL.DEVICE`, without `cfg.MODEL.WEIGHTS`."""
    model: nn.Module = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
    return model.to(torch.device(cfg.MODEL.DEVICE))
