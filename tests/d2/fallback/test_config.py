from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cliptrase_d2.d2.fallback.config import get_cfg
from tests.d2.fallback.conftest import BACKENDS


def test_the_device_is_available() -> None:
    assert ("cuda" if torch.cuda.is_available() else "cpu") == get_cfg().MODEL.DEVICE


def test_each_config_is_a_new_one(backend: SimpleNamespace) -> None:
    first = backend.config.get_cfg()
    first.INPUT.CROP.SIZE[0] = 0.1
    first.SOLVER.BASE_LR = 7.0
    assert backend.config.get_cfg().INPUT.CROP.SIZE == [0.9, 0.9]
    assert backend.config.get_cfg().SOLVER.BASE_LR == 0.001


def _list_leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        yield from _list_leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]


@pytest.mark.skipif("detectron2" not in BACKENDS, reason="Detectron2 is not installed, so nothing can be compared")
def test_each_key_has_the_default_of_detectron2() -> None:
    ours = dict(_list_leaves(get_cfg()))
    theirs = dict(_list_leaves(BACKENDS["detectron2"].config.get_cfg()))
    del ours["MODEL.DEVICE"]  # by design: ours is available
    assert ours == {key: theirs.get(key, "missing") for key in ours}
    assert {key: type(value) for key, value in ours.items()} == {key: type(theirs[key]) for key in ours}


def test_configurable_translates_a_config_and_keywords_override_it(backend: SimpleNamespace) -> None:
    class Part:
        @backend.config.configurable
        def __init__(self, a: int, b: int = 20, c: int = 30):
            self.values = (a, b, c)

        @classmethod
        def from_config(cls, cfg: Any, doubled: bool = False) -> dict[str, Any]:
            return {"a": cfg.A * (2 if doubled else 1), "b": cfg.B}

    class Child(Part):
        @classmethod
        def from_config(cls, cfg: Any) -> dict[str, Any]:
            return {"a": 100}

    cfg = backend.config.CfgNode({"A": 1, "B": 2})
    assert Part(5, c=6).values == (5, 20, 6)
    assert Part(cfg).values == Part(cfg=cfg).values == (1, 2, 30)
    assert Part(cfg, b=7, c=8).values == (1, 7, 8)
    assert Part(cfg, doubled=True).values == (2, 2, 30)  # an argument of from_config
    assert Child(cfg).values == (100, 20, 30)
