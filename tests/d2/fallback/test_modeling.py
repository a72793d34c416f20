from __future__ import annotations

import pytest
from torch import nn

from cliptrase_d2.d2.fallback.config import CfgNode, get_cfg
from cliptrase_d2.d2.fallback.modeling import META_ARCH_REGISTRY, build_model


def test_the_configured_model_is_built_on_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    class ToyArchitecture(nn.Module):
        def __init__(self, cfg: CfgNode):
            super().__init__()
            self.weight = nn.Linear(cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, 1)

    monkeypatch.setitem(META_ARCH_REGISTRY._obj_map, "ToyArchitecture", ToyArchitecture)
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.DEVICE = "ToyArchitecture", "meta"
    weight = build_model(cfg).weight
    assert weight.in_features == 54
    assert weight.weight.device.type == "meta"
