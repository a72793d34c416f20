"""Import without garbage collection, and without a module."""

from __future__ import annotations

import gc
import importlib
import sys

import pytest

from cliptrase_d2.utils.imports import hidden_module, paused_collection


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_pauses_and_then_is_as_before(enabled: bool) -> None:
    before = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        with paused_collection():
            assert not gc.isenabled()
        assert gc.isenabled() == enabled
    finally:
        gc.unfreeze()
        (gc.enable if before else gc.disable)()


def test_a_hidden_module_can_be_imported_later() -> None:
    sys.modules.pop("colorsys", None)
    with hidden_module("colorsys"), pytest.raises(ImportError):
        importlib.import_module("colorsys")
    assert importlib.import_module("colorsys")
    with hidden_module("colorsys"):  # has no effect on a module that is imported
        assert importlib.import_module("colorsys")
