"""Parallel map over files, with a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from multiprocessing import get_context
from typing import TypeVar

import cv2
from tqdm import tqdm

from cliptrase_d2.utils.errors import InputError

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_parallel(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int,
    *,
    title: str,
    unit: str,
    done: int = 0,
    min_per_worker: int = 64,
) -> Iterator[Result]:
    """Yield the result of each item, in order.

    Args:
        function: defined at the top level of a module, or a ``partial`` of such a function.
        items: its arguments.
        workers: maximum number of processes.
        title: of the progress bar.
        unit: of the progress bar.
        done: number of items that an earlier run has finished.
        min_per_worker: items that justify starting a process, which takes a second; with fewer than twice as many,
            everything runs in this process.
    Raises:
        InputError: a worker process was killed; or an error of ``function``.
    """
    workers = min(workers, len(items) // min_per_worker)
    in_process = (function(item) for item in items)
    results = in_process if workers <= 1 else _map_in_processes(function, items, workers)
    bar = tqdm(desc=title, total=done + len(items), initial=done, unit=unit, mininterval=1.0, disable=None)
    with bar, closing(results):  # after an interruption, the remaining items are cancelled at once
        for result in results:
            yield result
            bar.update()


def _map_in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int
) -> Generator[Result, None, None]:
    # Not "fork", which copies OpenCV's thread pool in an arbitrary state; the copy may hang.
    with ProcessPoolExecutor(workers, get_context("spawn"), cv2.setNumThreads, (1,)) as pool:
        try:
            yield from pool.map(function, items, chunksize=8)
        except BrokenProcessPool as error:
            fix = "Lower --workers if memory was short. Finished files are kept."
            raise InputError("--workers", "a worker process was killed", fix) from error
