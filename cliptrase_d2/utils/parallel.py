"""Calls a function for many files, in several processes, with a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

import cv2
from tqdm import tqdm

from cliptrase_d2.utils.errors import InputError

_ITEMS_WORTH_A_PROCESS = 64  # starting one takes a second
_CHUNK = 8  # items that a process is given at a time
Item = TypeVar("Item")
Result = TypeVar("Result")


def in_parallel(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int,
    *,
    title: str,
    unit: str,
    done: int = 0,
    worth_a_process: int = _ITEMS_WORTH_A_PROCESS,
) -> Iterator[Result]:
    """Yield the results in the order of the items.

    Args:
        function: at the top of a module, or a ``partial`` of one that is.
        items: what it is called with.
        workers: processes, at most.
        title: of the progress bar.
        unit: what the bar counts.
        done: items that were done before, for the bar.
        worth_a_process: below twice as many items everything is done in this process.
    Raises:
        InputError: a process was ended from outside; or what the function raises.
    """
    bar = tqdm(desc=title, total=done + len(items), initial=done, unit=unit, mininterval=1.0)
    with bar:
        for result in _results(function, items, min(workers, len(items) // worth_a_process)):
            yield result
            bar.update()


def _results(function: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[Result]:
    if workers <= 1:
        yield from map(function, items)
        return
    # Not by fork: it copies OpenCV's pool of threads in whatever state it is, and a copy may wait for ever.
    with ProcessPoolExecutor(workers, get_context("spawn"), cv2.setNumThreads, (1,)) as pool:
        try:
            yield from pool.map(function, items, chunksize=_CHUNK)
        except BrokenProcessPool as error:
            fix = "Try again with fewer --workers if memory was short; what is done stays."
            raise InputError(
                "a working process", "ended from outside", fix, allowed="processes that come to an end"
            ) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
