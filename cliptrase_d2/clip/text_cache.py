"""Text features on disk: a file for each block of words, named by a digest of everything that determines it."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cliptrase_d2.utils.atomic_files import atomic_write, remove_abandoned

logger = logging.getLogger(__name__)
FORMAT = "cliptrase text features 2"
_NAME = "text-{}.safetensors"


def cache_key(*parts: str | Sequence[str]) -> str:
    """Return a digest of everything that determines the features."""
    return hashlib.sha256(json.dumps([FORMAT, *parts]).encode()).hexdigest()


def cache_file(folder: Path, key: str) -> Path:
    """Return the path of the features with this key."""
    return folder / _NAME.format(key[:32])


def read_features(folder: Path, key: str, rows: int) -> Tensor | None:
    """Read features [R,D], float32. Return None, with a warning, if the file is unusable; without one if it is missing.

    Args:
        rows: the expected number of words, R.
    """
    path = cache_file(folder, key)
    try:
        with safe_open(path, framework="pt") as file:
            metadata, features = file.metadata() or {}, file.get_tensor("features")
        if (metadata.get("format"), metadata.get("key")) != (FORMAT, key):
            raise ValueError("written with other settings")
        if features.dtype != torch.float32 or features.ndim != 2 or len(features) != rows:
            raise ValueError(f"{features.dtype} features of shape {list(features.shape)}")
        if metadata.get("sha256") != _digest(features):
            raise ValueError("changed since it was written")
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError, ValueError) as error:
        logger.warning("%s: unusable text features (%s). They will be computed again.", path, error)
        return None
    return features


def write_features(folder: Path, key: str, features: Tensor) -> None:
    """Write features atomically: a concurrent reader finds a complete file or none.

    Raises:
        WriteError: the folder is not writable, or the disk is full.
    """
    remove_abandoned(folder, _NAME.format("*"))
    metadata = {"format": FORMAT, "key": key, "sha256": _digest(features)}
    content = safetensors.torch.save({"features": features.contiguous()}, metadata)
    atomic_write(cache_file(folder, key), lambda file: file.write(content))


def _digest(features: Tensor) -> str:
    return hashlib.sha256(features.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
