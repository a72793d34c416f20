"""Construction and evaluation of models, as in `detectron2.modeling` and `detectron2.evaluation`."""

from __future__ import annotations

from typing import Any

import torch
from fvcore.common.config import CfgNode
from fvcore.common.registry import Registry
from torch import nn

META_ARCH_REGISTRY = Registry("META_ARCH")


def build_model(cfg: CfgNode) -> nn.Module:
    """Build `cfg.MODEL.META_ARCHITECTURE` on `cfg.MODEL.DEVICE`, without loading `cfg.MODEL.WEIGHTS`."""
    model: nn.Module = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
    return model.to(torch.device(cfg.MODEL.DEVICE))


class DatasetEvaluator:
    """Accumulates over batches, then returns {task: {metric: value}}."""

    def reset(self) -> None: ...
    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None: ...
    def evaluate(self) -> dict[str, Any] | None: ...
