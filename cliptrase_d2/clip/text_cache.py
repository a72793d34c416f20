"""Text features on disk: one file of words for each model and set of templates, named by a digest of both."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cliptrase_d2.utils.atomic_files import atomic_write, remove_abandoned

logger = logging.getLogger(__name__)
FORMAT = "cliptrase text features 3"
MAX_WORDS = 50_000  # of a file: 100 MB at a width of 512
_NAME = "text-{}.safetensors"


def cache_key(*parts: str | Sequence[str]) -> str:
    """Return a digest of everything that determines the features of a word."""
    return hashlib.sha256(json.dumps([FORMAT, *parts]).encode()).hexdigest()


def cache_file(folder: Path, key: str) -> Path:
    """Return the path of the features with this key."""
    return folder / _NAME.format(key[:32])


def keep_latest(features: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the last `MAX_WORDS` entries."""
    return dict(islice(features.items(), max(0, len(features) - MAX_WORDS), None))


def read_features(folder: Path, key: str) -> dict[str, Tensor]:
    """Read the features of all stored words, each [D], float32.

    Return none, with a warning, if the file is unusable; without one if it is missing.
    """
    path = cache_file(folder, key)
    try:
        return _read(path, key)
    except FileNotFoundError:
        return {}
    except (SafetensorError, OSError, ValueError) as error:
        logger.warning("%s: unusable text features (%s). They will be computed again.", path, error)
        return {}


def add_features(folder: Path, key: str, features: Mapping[str, Tensor]) -> None:
    """Add words to the file atomically: a concurrent reader finds the old words or all of them.

    An unusable file, which `read_features` reports, is replaced. If two processes write at the same moment, the words
    of one may be lost, and are computed again.

    Args:
        features: of each word, [D] float32.
    Raises:
        WriteError: the folder is not writable, or the disk is full.
    """
    remove_abandoned(folder, _NAME.format("*"))
    path = cache_file(folder, key)
    try:
        stored = _read(path, key)
    except (SafetensorError, OSError, ValueError):
        stored = {}
    merged = keep_latest(stored | dict(features))
    words, rows = json.dumps(list(merged)), torch.stack(list(merged.values())).cpu()
    metadata = {"format": FORMAT, "key": key, "words": words, "sha256": _digest(words, rows)}
    content = safetensors.torch.save({"features": rows}, metadata)
    atomic_write(path, lambda file: file.write(content))


def _read(path: Path, key: str) -> dict[str, Tensor]:
    """Read a file.

    Raises:
        ValueError, OSError, SafetensorError: it is missing or unusable.
    """
    with safe_open(path, framework="pt") as file:
        metadata, features = file.metadata() or {}, file.get_tensor("features")
    if (metadata.get("format"), metadata.get("key")) != (FORMAT, key):
        raise ValueError("written with other settings")
    if features.dtype != torch.float32 or features.ndim != 2:
        raise ValueError(f"{features.dtype} features of shape {list(features.shape)}")
    text = metadata.get("words", "")
    if metadata.get("sha256") != _digest(text, features):
        raise ValueError("changed since it was written")
    words = json.loads(text)
    if len(words) != len(features):
        raise ValueError(f"{len(features)} features of {len(words)} words")
    return dict(zip(words, features, strict=True))


def _digest(words: str, features: Tensor) -> str:
    return hashlib.sha256(words.encode() + features.contiguous().numpy().tobytes()).hexdigest()
