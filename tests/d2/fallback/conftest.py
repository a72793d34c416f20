"""The fallback, and Detectron2 where it is installed. Tests of the fallback run on both, which must behave alike."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest
from fvcore.common.checkpoint import Checkpointer

from cliptrase_d2.d2.backend import is_installed

# By module of the fallback.
_DETECTRON2 = {
    "catalog": "detectron2.data.catalog",
    "config": "detectron2.config",
    "events": "detectron2.utils.events",
    "hooks": "detectron2.engine",
    "setup": "detectron2.engine",
    "solver": "detectron2.solver",
    "structures": "detectron2.structures",
}


def _load(modules: dict[str, str]) -> SimpleNamespace:
    return SimpleNamespace(**{name: importlib.import_module(path) for name, path in modules.items()})


BACKENDS = {"fallback": _load({name: f"cliptrase_d2.d2.fallback.{name}" for name in _DETECTRON2})}
BACKENDS["fallback"].Checkpointer = Checkpointer
if is_installed():
    BACKENDS["detectron2"] = _load(_DETECTRON2)
    BACKENDS["detectron2"].Checkpointer = importlib.import_module("detectron2.checkpoint").DetectionCheckpointer


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> SimpleNamespace:
    """Return the modules of a backend, by their names in the fallback."""
    return BACKENDS[request.param]
