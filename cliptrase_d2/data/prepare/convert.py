"""Turns many files into others, in parallel."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from cliptrase_d2.errors import InputError
from cliptrase_d2.whole_files import write_whole

_CHUNK = 16  # files that a process is given at a time
_WORTH_A_PROCESS = 64  # files; starting a process takes a second


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
    calls = [(convert, job.arguments) for job in left]
    bar = partial(tqdm, desc=title, total=len(jobs), initial=len(jobs) - len(left), unit="file", mininterval=1.0)
    if min(workers, len(left) // _WORTH_A_PROCESS) <= 1:
        for call in bar(calls):
            _call(call)
        return len(left)
    # Not forked: the libraries that read images have threads of their own, and their locks do not survive it.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        try:
            for _ in bar(pool.map(_call, calls, chunksize=_CHUNK)):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return len(left)


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
    write_whole(path, lambda file: image.save(file, format=kind, **options))


def same_file(source: Path, target: Path) -> None:
    """Let a file be found under a second name too: without taking room again where the disk allows it."""
    if target.is_file():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without such links
        with source.open("rb") as opened:
            write_whole(target, lambda file: shutil.copyfileobj(opened, file))


def lookup_table(indices: dict[int, int], size: int) -> np.ndarray:
    """[size] int64: class index of each raw value, -1 where there is none."""
    table = np.full(size, -1, dtype=np.int64)
    table[list(indices)] = list(indices.values())
    return table


def look_up(table: np.ndarray, raw: np.ndarray, where: object) -> np.ndarray:
    """Class indices of raw values.

    Args:
        table: as `lookup_table` makes it.
        raw: [H,W] integers.
        where: the file, for the message.
    Returns:
        [H,W] int64.
    Raises:
        InputError: a value that the table does not know.
    """
    inside = (raw >= 0) & (raw < len(table))
    indices = np.where(inside, table[np.where(inside, raw, 0)], -1)
    if (indices < 0).any():
        value = int(raw[indices < 0][0])
        raise InputError(where, f"the value {value}", "those of the official files", "Check that the file is one.")
    return indices


def _call(call: tuple[Callable[..., None], tuple[Any, ...]]) -> None:
    convert, arguments = call
    convert(*arguments)
