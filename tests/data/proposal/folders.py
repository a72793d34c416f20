"""Small data sets in the layouts of public data sets and tools."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 24
Color = tuple[int, int, int]


def write_pictures(root: Path, *names: str) -> None:
    """Write photographs: noise of many colours."""
    for index, name in enumerate(names):
        pixels = np.random.default_rng(index).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        _save(Image.fromarray(pixels), root / name)


def write_masks(root: Path, names: Iterable[str], values: Sequence[int], palette: Sequence[int] = ()) -> None:
    """Write label files of one channel in which each value has a stripe."""
    for name in names:
        stripes = np.array(values)[np.arange(SIDE) * len(values) // SIDE]
        rows = np.repeat(stripes[:, None], SIDE, axis=1)
        if name.endswith(".npy"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            np.save(root / name, rows.astype(np.int64))
            continue
        deep = rows.max() > 255 or rows.min() < 0
        image = Image.fromarray(rows.astype(np.int32 if rows.min() < 0 else np.uint16 if deep else np.uint8))
        if palette:
            image.putpalette(palette)
        _save(image, root / name)


def write_colors(root: Path, names: Iterable[str], colors: Sequence[Color]) -> None:
    """Write label files of three channels in which each colour has a stripe."""
    for name in names:
        stripes = np.array(colors, dtype=np.uint8)[np.arange(SIDE) * len(colors) // SIDE]
        _save(Image.fromarray(np.repeat(stripes[:, None], SIDE, axis=1)), root / name)


def write_text(root: Path, name: str, content: object) -> None:
    """Write a text file, or JSON if the content is no text."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
