"""Provenance of a result: hashes of its configuration and data, and the versions of the software."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import version

from cliptrase_d2 import __version__
from cliptrase_d2.d2 import CfgNode, describe
from cliptrase_d2.data.register import get_dataset_groups, get_dataset_labels

_PACKAGES = ("torch", "open_clip_torch", "hdbscan", "numpy")


def result_hashes(cfg: CfgNode, dataset_name: str) -> dict[str, str]:
    """Return ``config_hash`` and ``data_hash``; results with equal hashes are interchangeable."""
    return {"config_hash": config_hash(cfg), "data_hash": data_hash(dataset_name)}


def config_hash(cfg: CfgNode) -> str:
    """Return twelve hexadecimal digits that change with every key that can change a result.

    They do not depend on the output folder, the expected results, the number of workers or the batch size, so an
    evaluation that ran out of memory can resume with smaller batches.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = ""
    cfg.TEST.EXPECTED_RESULTS = []
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.TEST.BATCH_SIZE = 1
    return digest(cfg.dump())


def data_hash(dataset_name: str) -> str:
    """Return twelve hexadecimal digits that change with the classes, their groups and the label rule of a data set."""
    return digest(repr((get_dataset_labels(dataset_name), get_dataset_groups(dataset_name))))


def versions() -> dict[str, str]:
    """Return the version of Python and of every package that affects a result."""
    return {
        "python": platform.python_version(),
        "cliptrase_d2": __version__,
        "detectron2": describe(),
        **{package: version(package) for package in _PACKAGES},
    }


def digest(text: str) -> str:
    """Return the first twelve hexadecimal digits of a text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]
