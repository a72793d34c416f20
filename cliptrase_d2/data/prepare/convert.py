"""Parallel conversion of label files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from cliptrase_d2.data.label_files import read_label
from cliptrase_d2.data.labels import LabelRule
from cliptrase_d2.utils.atomic_files import atomic_write
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.parallel import map_parallel


class Job(NamedTuple):
    """One call of a converting function.

    Attributes:
        targets: files that it writes. If all of them exist, it is not called.
        arguments: of the call.
    """

    targets: tuple[Path, ...]
    arguments: tuple[Any, ...]


def convert_all(jobs: Sequence[Job], convert: Callable[..., None], workers: int, title: str) -> int:
    """Call a function for every job whose files do not exist yet.

    Args:
        jobs: independent of each other.
        convert: module-level function that writes its files atomically, as `write_label` does.
        workers: number of processes.
        title: of the progress bar.
    Returns:
        The number of calls.
    Raises:
        InputError: a file cannot be used. Finished files remain.
    """
    remaining = [job for job in jobs if not all(target.is_file() for target in job.targets)]
    call, done = partial(_call, convert), len(jobs) - len(remaining)
    for _ in map_parallel(call, remaining, workers, title=title, unit="file", done=done):
        pass
    return len(remaining)


def relabel_all(files: Iterable[tuple[Path, Path]], rule: LabelRule, workers: int) -> None:
    """Convert label files to class indices. Existing files are not converted again.

    Args:
        files: label file with raw values, and the file to write, named as for `write_label`.
        rule: meaning of the raw values.
        workers: number of processes.
    Raises:
        InputError: a file cannot be read, or a value has no meaning.
    """
    convert_all([Job((target,), (source, target, rule)) for source, target in files], _relabel, workers, "labels")


def write_label(path: Path, labels: np.ndarray, bits: int | None = None) -> None:
    """Write a label file atomically.

    Args:
        path: ending in .png or .tif.
        labels: [H,W] integers in this range.
        bits: 8 or 16; None for 8 in a .png and 16 in a .tif.
    """
    is_tiff = path.suffix == ".tif"
    bits = bits or (16 if is_tiff else 8)
    assert labels.min() >= 0
    assert labels.max() < 2**bits
    image = Image.fromarray(labels.astype(np.uint16 if bits == 16 else np.uint8))
    options = {"format": "TIFF", "compression": "tiff_deflate"} if is_tiff else {"format": "PNG"}
    atomic_write(path, lambda file: image.save(file, **options))


def link_file(source: Path, target: Path) -> None:
    """Give a file a second path: by a hard link, or by a copy if the disk has no hard links."""
    if target.is_file():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another disk, or no hard links
        with source.open("rb") as content:
            atomic_write(target, lambda file: shutil.copyfileobj(content, file))


def map_official_labels(rule: LabelRule, raw: np.ndarray, where: object) -> np.ndarray:
    """Convert [H,W] raw values of an official label file to class indices.

    Raises:
        InputError: a value has no meaning, which happens in no official file.
    """
    try:
        return rule.apply(raw, where)
    except InputError as error:
        raise InputError(where, error.got, "Check that this is the official file.") from error


def _relabel(source: Path, target: Path, rule: LabelRule) -> None:
    write_label(target, map_official_labels(rule, read_label(source), source))


def _call(convert: Callable[..., None], job: Job) -> None:
    convert(*job.arguments)
