from __future__ import annotations

from collections.abc import Iterator

import pytest
from torch import nn

from cliptrase_d2.d2.fallback.config import CfgNode, get_cfg
from cliptrase_d2.d2.fallback.modeling import META_ARCH_REGISTRY, build_model


@pytest.fixture
def toy() -> Iterator[str]:
    @META_ARCH_REGISTRY.register()
    class ToyArchitecture(nn.Module):
        def __init__(self, cfg: CfgNode):
            super().__init__()
            self.weight = nn.Linear(cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, 1)

    yield "ToyArchitecture"
    del META_ARCH_REGISTRY._obj_map["ToyArchitecture"]


def test_the_model_of_the_config_is_built_on_its_device(toy: str) -> None:
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.DEVICE = toy, "meta"
    weight = build_model(cfg).weight
    assert weight.in_features == 54
    assert weight.weight.device.type == "meta"


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(KeyError, match="No object named 'GeneralizedRCNN' found in 'META_ARCH' registry"):
        build_model(get_cfg())
