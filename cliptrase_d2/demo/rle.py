"""Masks in COCO's run-length encoding, uncompressed: lengths of runs, column by column, outside and inside in turn."""

from __future__ import annotations

from typing import Any

import numpy as np


def encode(mask: np.ndarray) -> dict[str, Any]:
    """A mask as COCO's tools read it.

    Args:
        mask: [H,W] bool.
    Returns:
        ``size`` [H, W] and ``counts``, which begin with the pixels outside the mask.
    """
    pixels = mask.astype(bool).ravel(order="F")
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    ends = np.concatenate([[0], changes, [pixels.size]])
    counts = np.diff(ends).tolist() if pixels.size else []
    return {"size": list(mask.shape), "counts": [0, *counts] if pixels.size and pixels[0] else counts}


def decode(encoded: dict[str, Any]) -> np.ndarray:
    """The mask [H,W] bool of such an encoding."""
    counts = encoded["counts"]
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(encoded["size"], order="F")
