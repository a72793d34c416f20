"""Reading ahead: in order, bounded, and over when it is over."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from cliptrase_d2.segmenter.prefetch import in_batches, read_ahead


class Source:
    """0, 1, 2, …, and how many of them were taken, and by which threads."""

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


def failing(before: int) -> Iterator[int]:
    yield from range(before)
    raise OSError("the camera was unplugged")


def test_items_come_prepared_and_in_order() -> None:
    assert list(read_ahead(range(20), lambda item: item * item, 3)) == [item * item for item in range(20)]
    assert list(read_ahead([], str, 3)) == []


def test_items_that_are_empty_are_items() -> None:
    assert list(read_ahead([None, [], 0], lambda item: item, 2)) == [None, [], 0]


def test_nothing_is_read_before_the_first_is_asked_for() -> None:
    source, before = Source(), threading.active_count()
    read_ahead(source, str, 3)
    assert (source.taken, threading.active_count()) == (0, before)


def test_one_other_thread_reads_so_many_ahead_and_no_more() -> None:
    source, prepared, enough = Source(), [], threading.Event()

    def prepare(item: int) -> int:
        prepared.append(item)
        if item == 3:
            enough.set()
        return item

    reader = read_ahead(source, prepare, 3)
    assert next(reader) == 0
    assert enough.wait(10)  # 1, 2 and 3 are read although nobody asked
    reader.close()
    assert prepared == [0, 1, 2, 3]
    assert source.taken == 4
    assert len(source.threads) == 1
    assert threading.get_ident() not in source.threads


def test_closing_early_ends_the_thread_and_lets_go_of_the_source() -> None:
    source, before = Source(), threading.active_count()
    reader = read_ahead(source, str, 2)
    next(reader)
    assert threading.active_count() == before + 1
    reader.close()
    assert threading.active_count() == before
    del reader
    assert source.closed.wait(10)


def test_the_end_ends_the_thread() -> None:
    before = threading.active_count()
    list(read_ahead(range(5), str, 2))
    assert threading.active_count() == before


@pytest.mark.parametrize("ahead", [1, 2, 9])
def test_an_error_comes_in_the_place_of_its_item(ahead: int) -> None:
    seen, before = list[float](), threading.active_count()
    with pytest.raises(ZeroDivisionError):
        seen.extend(read_ahead([1, 2, 0, 4], lambda item: 1 / item, ahead))
    assert seen == [1, 0.5]
    assert threading.active_count() == before


def test_an_error_of_the_source_comes_after_its_items() -> None:
    seen: list[str] = []
    with pytest.raises(OSError, match="unplugged"):
        seen.extend(read_ahead(failing(3), str, 2))
    assert seen == ["0", "1", "2"]


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (2, [2]), (3, [3]), (7, [3, 3, 1])])
def test_batches_hold_everything_once(count: int, sizes: list[int]) -> None:
    batches = list(in_batches(range(count), 3))
    assert [len(batch) for batch in batches] == sizes
    assert [item for batch in batches for item in batch] == list(range(count))


@pytest.mark.parametrize("before", [0, 2, 3, 4])
def test_what_came_before_an_error_is_batched_first(before: int) -> None:
    seen: list[int] = []
    with pytest.raises(OSError, match="unplugged"):
        seen.extend(item for batch in in_batches(failing(before), 3) for item in batch)
    assert seen == list(range(before))


def test_a_batch_is_taken_when_it_is_asked_for() -> None:
    source = Source()
    batches = in_batches(source, 3)
    assert source.taken == 0
    next(batches)
    assert source.taken == 3
