"""What a number came from: the configuration in one word, and the versions of what computed it."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import version

from cliptrase_d2 import __version__
from cliptrase_d2.d2 import CfgNode, describe
from cliptrase_d2.data.register import dataset_groups, dataset_labels

_PACKAGES = ("torch", "open_clip_torch", "hdbscan", "numpy")


def config_hash(cfg: CfgNode) -> str:
    """Twelve hexadecimal digits that change with any key that can change a number.

    Not with the output folder, the expected results, the reading processes or the size of a batch: an evaluation that
    ran out of memory goes on with fewer of them.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = ""
    cfg.TEST.EXPECTED_RESULTS = []
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.TEST.BATCH_SIZE = 1
    return digest(cfg.dump())


def data_hash(name: str) -> str:
    """Twelve hexadecimal digits that change with the classes of a data set, their groups and what its labels mean."""
    return digest(repr((dataset_labels(name), dataset_groups(name))))


def versions() -> dict[str, str]:
    """Version of Python and of every package that takes part in a number."""
    return {
        "python": platform.python_version(),
        "cliptrase_d2": __version__,
        "detectron2": describe(),
        **{package: version(package) for package in _PACKAGES},
    }


def digest(text: str) -> str:
    """Twelve hexadecimal digits that stand for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]
