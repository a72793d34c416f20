"""Provenance of a result: hashes of its configuration and data, and the versions of the software."""

from __future__ import annotations

import hashlib
import platform
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from cliptrase_d2 import __version__
from cliptrase_d2.d2 import CfgNode, describe
from cliptrase_d2.data.register import get_dataset_groups, get_dataset_labels, get_rendering, get_unknown_class

_PACKAGES = ("torch", "open_clip_torch", "timm", "hdbscan", "numpy")


def result_hashes(cfg: CfgNode, dataset_name: str) -> dict[str, str]:
    """Return ``config_hash`` and ``data_hash``; results with equal hashes are interchangeable."""
    return {"config_hash": config_hash(cfg), "data_hash": data_hash(dataset_name)}


def config_hash(cfg: CfgNode) -> str:
    """Return twelve hexadecimal digits that change with every key and file of the model that can change a result.

    They do not depend on the output folder, the expected results, the number of workers or the batch size, so an
    evaluation that ran out of memory can resume with smaller batches.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = ""
    cfg.TEST.EXPECTED_RESULTS = []
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.TEST.BATCH_SIZE = 1
    files = cfg.MODEL.WEIGHTS, cfg.MODEL.CLIP.PRETRAINED, cfg.MODEL.MASKS.BACKBONE_WEIGHTS, cfg.MODEL.VISION.WEIGHTS
    texts = cfg.MODEL.CLIP.TEMPLATES, cfg.TEST.PUBLISHED.EXPERTS
    return digest(cfg.dump() + repr([_file_digest(path) for path in files]) + "".join(map(_file_digest, texts)))


def data_hash(dataset_name: str) -> str:
    """Return twelve hexadecimal digits that change with a data set's classes, groups, label rule and rendering."""
    parts = (get_dataset_labels(dataset_name), get_dataset_groups(dataset_name))
    unknown, rendering = get_unknown_class(dataset_name), get_rendering(dataset_name)
    parts = parts if unknown is None else (*parts, unknown)  # type: ignore[assignment]
    return digest(repr((*parts, rendering) if rendering else parts))


def versions() -> dict[str, str]:
    """Return the version of Python and of every package that affects a result."""
    return {
        "python": platform.python_version(),
        "cliptrase_d2": __version__,
        "detectron2": describe(),
        **{package: version(package) for package in _PACKAGES},
    }


def _file_digest(path: str) -> str:
    """Return the SHA-256 of a file, which may be replaced later; "" for a tag, a name or an address."""
    file = Path(path).expanduser()
    if not path or not file.is_file():
        return ""
    state = file.stat()
    return _hash_file(file, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=16)
def _hash_file(path: Path, size: int, modified: int) -> str:
    """Return the SHA-256 of a file; its size and its time of change in nanoseconds only tell calls apart."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def digest(text: str) -> str:
    """Return the first twelve hexadecimal digits of a text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]
