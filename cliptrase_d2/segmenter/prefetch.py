"""Prefetching: prepare the next items in a thread while the current one is processed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Prepared = TypeVar("Prepared")


def prefetch(items: Iterable[Item], prepare: Callable[[Item], Prepared], ahead: int) -> Generator[Prepared, None, None]:
    """Yield ``prepare(item)`` in order, prepared by a single thread.

    The thread starts with the first ``next()`` and ends with the generator, at the latest after the item in progress.
    An error in ``items`` or ``prepare`` is raised in place of its item and ends the generator.

    Args:
        items: iterated in the thread.
        prepare: called in the thread.
        ahead: number of items, 1 or more, that are prepared beyond the one yielded last.
    """
    source = iter(items)

    def prepare_next() -> list[Prepared]:
        return [prepare(item) for item in islice(source, 1)]  # empty at the end

    with ThreadPoolExecutor(1) as thread:
        try:
            pending = deque(thread.submit(prepare_next) for _ in range(ahead))
            while prepared := pending.popleft().result():
                pending.append(thread.submit(prepare_next))
                yield prepared[0]
        finally:
            thread.shutdown(wait=False, cancel_futures=True)  # leaving the block waits for the item in progress


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield lists of ``size`` items, the last one possibly shorter. An error is raised after the items before it.

    Args:
        items: taken only as needed.
        size: 1 or more.
    """
    batch: list[Item] = []
    try:
        for item in items:
            batch.append(item)
            if len(batch) == size:
                yield batch
                batch = []
    except Exception:
        if batch:
            yield batch
        raise
    if batch:
        yield batch
