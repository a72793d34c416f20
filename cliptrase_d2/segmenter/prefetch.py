"""Reading the next while the last is worked on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Prepared = TypeVar("Prepared")


def read_ahead(
    items: Iterable[Item], prepare: Callable[[Item], Prepared], ahead: int
) -> Generator[Prepared, None, None]:
    """Yield ``prepare(item)`` in order; one thread takes the items and prepares them, a few before they are asked for.

    Nothing is read before the first is asked for, and closing the generator ends the thread, once the item that it is
    at is done. What the items or ``prepare`` raise comes in the place of its item, and is the end.

    Args:
        items: taken one by one, all in that thread.
        prepare: called in that thread.
        ahead: at most so many are prepared, 1 or more, beside the one that was yielded last.
    """
    source = iter(items)

    def read_one() -> list[Prepared]:
        return [prepare(item) for item in islice(source, 1)]  # empty at the end

    with ThreadPoolExecutor(1) as thread:
        try:
            waiting = deque(thread.submit(read_one) for _ in range(ahead))
            while read := waiting.popleft().result():
                waiting.append(thread.submit(read_one))
                yield read[0]
        finally:
            thread.shutdown(wait=False, cancel_futures=True)  # leaving the block waits


def in_batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of ``size`` items, the last one shorter; an error comes after the items before it.

    Args:
        items: taken as they are needed.
        size: 1 or more.
    """
    source = iter(items)
    while True:
        batch: list[Item] = []
        try:
            for item in islice(source, size):
                batch.append(item)
        except Exception:
            if batch:
                yield batch
            raise
        if not batch:
            return
        yield batch
