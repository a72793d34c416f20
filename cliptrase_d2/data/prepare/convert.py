"""Turns many files into others, in parallel."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from cliptrase_d2.data.images import read_label
from cliptrase_d2.data.labels import LabelRule
from cliptrase_d2.utils.atomic_files import atomic_write
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.parallel import in_parallel


class Job(NamedTuple):
    """One call of the converting function.

    Attributes:
        targets: files that it writes; it is not called where all of them are there.
        arguments: what it is called with.
    """

    targets: tuple[Path, ...]
    arguments: tuple[Any, ...]


def convert_all(jobs: Sequence[Job], convert: Callable[..., None], workers: int, title: str) -> int:
    """Call a function for every job that is not done.

    Args:
        jobs: independent of each other.
        convert: at the top of a module; writes its targets whole, as `write_label` does.
        workers: processes.
        title: of the progress bar.
    Returns:
        The number of jobs that were not done before.
    Raises:
        InputError: of the first file that cannot be used; what is done stays.
    """
    left = [job for job in jobs if not all(target.is_file() for target in job.targets)]
    call, done = partial(_call, convert), len(jobs) - len(left)
    for _ in in_parallel(call, left, workers, title=title, unit="file", done=done):
        pass
    return len(left)


def relabel_all(files: Iterable[tuple[Path, Path]], rule: LabelRule, workers: int) -> None:
    """Write label files of class indices; those that are there stay.

    Args:
        files: label file with raw values, and the file to write, as `write_label` takes it.
        rule: what the raw values mean.
        workers: processes.
    Raises:
        InputError: a file that cannot be read, or that has a value which the rule does not know.
    """
    jobs = [Job((target,), (source, target, rule)) for source, target in files]
    convert_all(jobs, _relabel, workers, "labels")


def write_label(path: Path, labels: np.ndarray) -> None:
    """Write a label file that is whole or not there: PNG of 8 bits, or TIFF of 16 where the name says so.

    Args:
        path: ending in .png or .tif.
        labels: [H,W] integers that fit.
    """
    depth = np.uint16 if path.suffix == ".tif" else np.uint8
    assert labels.min() >= 0
    assert labels.max() <= np.iinfo(depth).max
    image = Image.fromarray(labels.astype(depth))
    kind = "TIFF" if depth is np.uint16 else "PNG"
    options = {"compression": "tiff_deflate"} if depth is np.uint16 else {}
    atomic_write(path, lambda file: image.save(file, format=kind, **options))


def same_file(source: Path, target: Path) -> None:
    """Let a file be found under a second name too: without taking room again where the disk allows it."""
    if target.is_file():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without such links
        with source.open("rb") as opened:
            atomic_write(target, lambda file: shutil.copyfileobj(opened, file))


def class_indices(rule: LabelRule, raw: np.ndarray, where: object) -> np.ndarray:
    """[H,W] class indices of [H,W] raw values.

    Raises:
        InputError: a value that the rule does not know, which no official file has.
    """
    try:
        return rule.apply(raw, where)
    except InputError as error:
        raise InputError(
            where, error.got, "Check that it is one.", allowed="the values of the official files"
        ) from error


def _relabel(source: Path, target: Path, rule: LabelRule) -> None:
    write_label(target, class_indices(rule, read_label(source), source))


def _call(convert: Callable[..., None], job: Job) -> None:
    convert(*job.arguments)
