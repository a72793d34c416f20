from __future__ import annotations

from typing import Any

import pytest

from cliptrase_d2.d2.fallback.config import CfgNode
from cliptrase_d2.d2.fallback.configurable import configurable

CFG = CfgNode({"A": 1, "B": 2})


class Part:
    @configurable
    def __init__(self, a: int, b: int = 20, c: int = 30):
        self.values = (a, b, c)

    @classmethod
    def from_config(cls, cfg: CfgNode, doubled: bool = False) -> dict[str, Any]:
        return {"a": cfg.A * (2 if doubled else 1), "b": cfg.B}


@configurable(from_config=lambda cfg: {"a": cfg.A})
def add(a: int, b: int = 10) -> int:
    return a + b


def test_plain_arguments_pass_as_they_are() -> None:
    assert Part(5, c=6).values == (5, 20, 6)


def test_a_config_is_translated() -> None:
    assert Part(CFG).values == (1, 2, 30)
    assert Part(cfg=CFG).values == (1, 2, 30)


def test_keywords_beside_a_config_overwrite_it() -> None:
    assert Part(CFG, b=7, c=8).values == (1, 7, 8)


def test_keywords_that_from_config_takes_go_there() -> None:
    assert Part(CFG, doubled=True).values == (2, 2, 30)


def test_a_subclass_translates_by_its_own_from_config() -> None:
    class Child(Part):
        @classmethod
        def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
            return {"a": 100}

    assert Child(CFG).values == (100, 20, 30)


def test_a_function_is_configurable_too() -> None:
    assert (add(1), add(CFG), add(CFG, b=3)) == (11, 11, 4)


def test_from_config_with_free_keywords_gets_them_all() -> None:
    class Free:
        @configurable
        def __init__(self, a: int, b: int):
            self.values = (a, b)

        @classmethod
        def from_config(cls, cfg: CfgNode, **kwargs: int) -> dict[str, Any]:
            return {"a": cfg.A, "b": kwargs["b"] + 1}

    assert Free(CFG, b=1).values == (1, 2)


def test_a_class_without_from_config_is_told_so() -> None:
    class Bare:
        @configurable
        def __init__(self) -> None: ...

    with pytest.raises(AttributeError, match="Bare needs a 'from_config' classmethod"):
        Bare()


def test_a_from_config_that_is_no_classmethod_is_told_so() -> None:
    class Wrong:
        @configurable
        def __init__(self) -> None: ...

        def from_config(self) -> dict[str, Any]:
            return {}

    with pytest.raises(TypeError, match=r"Wrong.from_config must be a classmethod"):
        Wrong()


def test_a_from_config_without_cfg_is_told_so() -> None:
    @configurable(from_config=lambda config: {})
    def function() -> None: ...

    with pytest.raises(TypeError, match="must take 'cfg' as the first argument"):
        function(CFG)
