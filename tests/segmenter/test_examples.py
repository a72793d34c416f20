"""The examples in the docstrings of what users call."""

from __future__ import annotations

import doctest
from types import ModuleType

import pytest

from cliptrase_d2.segmenter import result
from cliptrase_d2.segmenter import segmenter as predictor
from tests.command_line import ROOT


@pytest.mark.parametrize("module", [predictor, result], ids=["predictor", "result"])
def test_examples_give_what_they_show(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> None:
    monkeypatch.chdir(ROOT)
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0
