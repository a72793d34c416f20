"""Training-free open-vocabulary semantic segmentation with CLIP's own patch correlations.

    from cliptrase_d2 import Segmenter

    segmenter = Segmenter.from_config()
    result = segmenter("photo.jpg", ["sky", "tree", "person;man;woman"])
    result.save("segmented.png")

The public names are imported on first use, so importing this package does not load PyTorch. In a program that has
imported Detectron2 before, the import registers the architectures.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cliptrase_d2.config import add_cliptrase_config
    from cliptrase_d2.data.mapper import EvaluationMapper
    from cliptrase_d2.data.register import register_dataset
    from cliptrase_d2.san.default_trainer import Trainer
    from cliptrase_d2.segmenter.result import SegmentationResult
    from cliptrase_d2.segmenter.segmenter import Segmenter

__all__ = [
    "EvaluationMapper", "SegmentationResult", "Segmenter", "Trainer", "__version__", "add_cliptrase_config",
    "register_dataset",
]  # fmt: skip

_MODULES = {
    "EvaluationMapper": "cliptrase_d2.data.mapper",
    "SegmentationResult": "cliptrase_d2.segmenter.result",
    "Segmenter": "cliptrase_d2.segmenter.segmenter",
    "Trainer": "cliptrase_d2.san.default_trainer",
    "add_cliptrase_config": "cliptrase_d2.registration",  # which also registers the architectures
    "register_dataset": "cliptrase_d2.data.register",
}

try:
    __version__ = version("cliptrase_d2")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "unknown"


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value  # later accesses skip this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if "detectron2" in sys.modules:  # a script of a Detectron2 user, who expects the import to register the architectures
    import_module("cliptrase_d2.registration")
