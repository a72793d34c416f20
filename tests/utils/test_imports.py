"""Import without garbage collection."""

from __future__ import annotations

import gc

import pytest

from cliptrase_d2.utils.imports import paused_collection


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
