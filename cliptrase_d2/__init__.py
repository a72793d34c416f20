"""Open-vocabulary semantic segmentation from CLIP's own patch correlations, without training.

    from cliptrase_d2 import Segmenter

    segmenter = Segmenter.from_config()
    result = segmenter("photo.jpg", ["sky", "tree", "person;man;woman"])
    result.save("segmented.png")

The names below are imported when they are first used: the package itself loads neither PyTorch nor CLIP.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cliptrase_d2.config import add_cliptrase_config
    from cliptrase_d2.data.register import register_dataset
    from cliptrase_d2.segmenter.result import SegmentationResult
    from cliptrase_d2.segmenter.segmenter import Segmenter

__all__ = ["SegmentationResult", "Segmenter", "__version__", "add_cliptrase_config", "register_dataset"]

_HOMES = {
    "SegmentationResult": "cliptrase_d2.segmenter.result",
    "Segmenter": "cliptrase_d2.segmenter.segmenter",
    "add_cliptrase_config": "cliptrase_d2.config",
    "register_dataset": "cliptrase_d2.data.register",
}

try:
    __version__ = version("cliptrase_d2")
except PackageNotFoundError:  # a source folder that was never installed
    __version__ = "unknown"


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value  # from now on found without this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
