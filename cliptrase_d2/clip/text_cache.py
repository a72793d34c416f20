"""Text features on disk: one file per vocabulary, named after all that decides them."""

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
    """A digest of everything that decides the features, in this order."""
    return hashlib.sha256(json.dumps([FORMAT, *parts]).encode()).hexdigest()


def cache_file(folder: Path, key: str) -> Path:
    """Where the features with this key are kept."""
    return folder / _NAME.format(key[:32])


def read_features(folder: Path, key: str, rows: int) -> Tensor | None:
    """[R,D] float32 features, or None where there are none that can be used.

    Args:
        rows: the number of words, R, that the features must have.
    """
    path = cache_file(folder, key)
    try:
        with safe_open(path, framework="pt") as stored:
            metadata = stored.metadata() or {}
            if {name: metadata.get(name) for name in ("format", "key")} != {"format": FORMAT, "key": key}:
                raise ValueError("written for something else")
            features = stored.get_tensor("features")
        if features.dtype != torch.float32 or features.ndim != 2 or len(features) != rows:
            raise ValueError(f"{features.dtype} features of shape {list(features.shape)}")
        if metadata.get("sha256") != _digest(features):
            raise ValueError("changed since it was written")
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError, ValueError) as error:
        logger.warning("%s: not usable as text features (%s); they are computed again.", path, error)
        return None
    return features


def write_features(folder: Path, key: str, features: Tensor) -> None:
    """Keep features; a reader sees the whole file or none, whoever else writes.

    Raises:
        WriteError: the folder cannot be written, or the disk is full.
    """
    remove_abandoned(folder, _NAME.format("*"))
    features = features.contiguous()
    metadata = {"format": FORMAT, "key": key, "sha256": _digest(features)}
    stored = safetensors.torch.save({"features": features}, metadata)
    atomic_write(cache_file(folder, key), lambda file: file.write(stored))


def _digest(features: Tensor) -> str:
    return hashlib.sha256(features.detach().cpu().numpy().tobytes()).hexdigest()
