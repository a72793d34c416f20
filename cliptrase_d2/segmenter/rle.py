"""Masks in COCO's run-length encoding: lengths of runs, column by column, outside and inside in turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

_BITS, _MORE, _SIGN, _FIRST = 5, 0x20, 0x10, 48  # of a compressed character: its payload, two flags, and "0"


def encode(mask: np.ndarray) -> dict[str, Any]:
    """A mask as COCO's tools read it, uncompressed.

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


def compress(encoded: dict[str, Any]) -> dict[str, Any]:
    """The same encoding with its counts as a string, to the letter that of pycocotools.

    From the fourth on, a count is written as its difference from the last but one before it. Numbers are cut into
    five bits, the lowest first, each a character from "0" on with a flag that says whether more follow.
    """
    counts = encoded["counts"]
    steps = [count - counts[index - 2] if index > 2 else count for index, count in enumerate(counts)]
    return {**encoded, "counts": "".join(map(_characters, steps))}


def _characters(number: int) -> str:
    characters = ""
    while True:
        low, number = number & (_MORE - 1), number >> _BITS
        is_last = number == (-1 if low & _SIGN else 0)  # what is left says no more than the sign does
        characters += chr(_FIRST + (low if is_last else low | _MORE))
        if is_last:
            return characters


def area(counts: Sequence[int]) -> int:
    """Pixels inside, of uncompressed counts."""
    return sum(counts[1::2])


def decode(encoded: dict[str, Any]) -> np.ndarray:
    """The mask [H,W] bool of an uncompressed encoding."""
    counts = encoded["counts"]
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(encoded["size"], order="F")
