"""Small sets of pictures, and their conversion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cliptrase_d2.data.convert.formats import read_source
from cliptrase_d2.data.convert.run import Conversion, convert_source
from cliptrase_d2.data.convert.source import Options, Source
from cliptrase_d2.data.label_files import read_label


def write_picture(path: Path, size: tuple[int, int], **options: Any) -> None:
    """Write a grey picture of a height and a width."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((*size, 3), np.uint8)).save(path, **options)


def write_json(path: Path, content: Any) -> Path:
    """Write a JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def convert(
    source: Path | str, output: Path, *, name: str = "", background: str = "", **options: Any
) -> tuple[Source, Conversion]:
    """Convert a source in this process."""
    read = read_source(Options(str(source), output, **options), name)
    return read, convert_source(read, output, background)


def labels(output: Path, name: str = "a") -> list[list[int]]:
    """Return the values of a label file."""
    return read_label(output / "labels" / f"{name}.png").tolist()
