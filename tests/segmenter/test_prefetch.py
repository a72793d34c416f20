"""Prefetching and batching: order, bounds, errors and the end of the thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from cliptrase_d2.segmenter.prefetch import batched, prefetch


class Counter:
    """Yields 0, 1, 2, … and records how many items were taken, and in which threads."""

    def __init__(self) -> None:
        self.taken, self.threads, self.closed = 0, set[int](), threading.Event()

    def __iter__(self) -> Iterator[int]:
        try:
            while True:
                self.threads.add(threading.get_ident())
                self.taken += 1
                yield self.taken - 1
        finally:
            self.closed.set()


def fail_after(count: int) -> Iterator[int]:
    yield from range(count)
    raise OSError("unplugged")


@pytest.mark.parametrize("items", [[], list(range(20)), [None, [], 0]])
def test_items_are_prepared_in_order_and_the_thread_ends(items: list[object]) -> None:
    before = threading.active_count()
    assert list(prefetch(items, lambda item: (item, "prepared"), 3)) == [(item, "prepared") for item in items]
    assert threading.active_count() == before


def test_nothing_happens_before_the_first_request() -> None:
    source, before = Counter(), threading.active_count()
    prefetch(source, str, 3)
    assert (source.taken, threading.active_count()) == (0, before)


def test_one_thread_prepares_a_bounded_number_of_items() -> None:
    source, prepared, enough = Counter(), [], threading.Event()

    def prepare(item: int) -> int:
        prepared.append(item)
        if item == 3:
            enough.set()
        return item

    results = prefetch(source, prepare, 3)
    assert next(results) == 0
    assert enough.wait(10)  # items 1, 2 and 3 are prepared without a request
    results.close()
    assert prepared == [0, 1, 2, 3]
    assert source.taken == 4
    assert len(source.threads) == 1
    assert threading.get_ident() not in source.threads


def test_closing_early_ends_the_thread_and_releases_the_source() -> None:
    source, before = Counter(), threading.active_count()
    results = prefetch(source, str, 2)
    next(results)
    assert threading.active_count() == before + 1
    results.close()
    assert threading.active_count() == before
    del results
    assert source.closed.wait(10)


@pytest.mark.parametrize("ahead", [1, 2, 9])
def test_an_error_is_raised_in_place_of_its_item(ahead: int) -> None:
    results, before = list[float](), threading.active_count()
    with pytest.raises(ZeroDivisionError):
        results.extend(prefetch([1, 2, 0, 4], lambda item: 1 / item, ahead))
    assert results == [1, 0.5]
    with pytest.raises(OSError, match="unplugged"):
        results.extend(prefetch(fail_after(3), float, ahead))
    assert results == [1, 0.5, 0, 1, 2]
    assert threading.active_count() == before


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (2, [2]), (3, [3]), (7, [3, 3, 1])])
def test_batches_hold_every_item_once(count: int, sizes: list[int]) -> None:
    batches = list(batched(range(count), 3))
    assert [len(batch) for batch in batches] == sizes
    assert [item for batch in batches for item in batch] == list(range(count))


@pytest.mark.parametrize("count", [0, 2, 3, 4])
def test_items_before_an_error_are_batched_first(count: int) -> None:
    items: list[int] = []
    with pytest.raises(OSError, match="unplugged"):
        items.extend(item for batch in batched(fail_after(count), 3) for item in batch)
    assert items == list(range(count))


def test_items_of_a_batch_are_taken_on_request() -> None:
    source = Counter()
    batches = batched(source, 3)
    assert source.taken == 0
    next(batches)
    assert source.taken == 3
