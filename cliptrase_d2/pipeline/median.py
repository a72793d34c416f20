"""Exact median filter as a fixed series of minima and maxima over whole planes.

A median by sorting looks at one window after another. Here one comparison serves all windows at once, so the
filter is batched tensor work on any device: columns are sorted once and shared by the windows that overlap
them, sorting the rows of sorted columns then rules out every entry that too many others bound from one side,
and of a sorting network of the rest only those comparisons are made that can change which one is in the middle.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations_with_replacement

import torch
from torch import Tensor

from cliptrase_d2.pipeline.sorting_network import MOST_PLANES, Comparator, needed_for, run, sort_planes, sorting_network

# Windows at a time. About thirty planes of them stay in a processor's cache; elsewhere they shall be worth a launch.
_PLANE_VALUES_CPU, _PLANE_VALUES = 2**16, 2**23
_LARGEST_TRIED = 9  # side up to which all arrangements are tried, once: 50,000 zeros and ones, then many more


def median_filter(maps: Tensor, size: int) -> Tensor:
    """Median over size×size windows with symmetric borders (… c b a | a b c …).

    Args:
        maps: [Q,H,W] real numbers; a map narrower than the border is mirrored again and again.
        size: odd window side; 1 returns the maps as they are.
    Returns:
        [Q,H,W], every value one of the input's.
    """
    if size == 1 or not len(maps):
        return maps
    _, height, width = maps.shape
    rows, columns = (_symmetric(length, size // 2, maps.device) for length in (height, width))
    padded = maps[:, rows][:, :, columns]  # [Q,H+size-1,W+size-1]
    values = _PLANE_VALUES_CPU if maps.device.type == "cpu" else _PLANE_VALUES
    chunk = max(1, values // (height * width))
    median = _filter_by_sorts if maps.is_cuda and size < MOST_PLANES else _filter
    parts = [median(part, size, height, width) for part in padded.split(chunk)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # else those who train could not use what an evaluation has left here
def _symmetric(length: int, margin: int, device: torch.device) -> Tensor:
    index = torch.arange(-margin, length + margin, device=device) % (2 * length)
    return torch.minimum(index, 2 * length - 1 - index)


def _filter(padded: Tensor, size: int, height: int, width: int) -> Tensor:
    columns = run([padded[:, i : i + height] for i in range(size)], _network(size, frozenset(range(size))))
    rows = [
        run([column[:, :, j : j + width] for j in range(size)], _network(size, frozenset(_open_ranks(size, i))))
        for i, column in enumerate(columns)
    ]
    entries, network = _selection(size)
    return run([rows[i][j] for i, j in entries], network)[len(entries) // 2]


def _open_ranks(size: int, i: int) -> list[int]:
    """Where the median can be in row i of a window whose columns and rows are sorted.

    Entry (i,j) has (i+1)(j+1) entries up to it and (size-i)(size-j) from it on.
    """
    rank = (size * size + 1) // 2
    return [j for j in range(size) if (i + 1) * (j + 1) <= rank and (size - i) * (size - j) <= rank]


@lru_cache(maxsize=8)
def _selection(size: int) -> tuple[list[tuple[int, int]], tuple[Comparator, ...]]:
    """The entries (i,j) of a window, sorted both ways, that may be its median, and what brings that to their middle.

    As many entries are ruled out below as above, so the median is in the middle of the rest. A comparator that never
    swaps zeros and ones does nothing.
    """
    entries = _entries(size)
    comparators, middle = sorting_network(len(entries)), len(entries) // 2
    if size > _LARGEST_TRIED:
        return entries, needed_for({middle}, comparators)
    wires, swapping = list(_zeros_and_ones(size)[0].unbind(1)), []
    for a, b in comparators:
        low, high = wires[a] & wires[b], wires[a] | wires[b]
        if not torch.equal(low, wires[a]):
            wires[a], wires[b] = low, high
            swapping.append((a, b))
    return entries, needed_for({middle}, swapping)


def _filter_by_sorts(padded: Tensor, size: int, height: int, width: int) -> Tensor:
    """`_filter` where it pays to sort planes at once that are then not all needed."""
    columns = sort_planes([padded[:, i : i + height] for i in range(size)])
    rows = [sort_planes([column[:, :, j : j + width] for j in range(size)]) for column in columns]
    wires = [rows[i][j] for i, j in _entries(size)]
    sorts, median = _selection_by_sorts(size)
    for sort in sorts:
        for wire, plane in zip(sort, sort_planes([wires[wire] for wire in sort]), strict=True):
            wires[wire] = plane
    return wires[median]


@lru_cache(maxsize=8)
def _selection_by_sorts(size: int) -> tuple[list[list[int]], int]:
    """What to sort of the entries of a window, some wires at a time, and the wire where its median is then.

    Sorted are those in the middle of what is open: a wire that is zero, or one, for all zeros and ones that decide is
    not the median. 7×7 windows take six sorts of eight wires.
    """
    windows, medians = _zeros_and_ones(size)
    count = windows.shape[1]
    together = min(MOST_PLANES, count)
    sorts = []
    while not (found := (windows == medians[:, None]).all(0)).any():
        ones = windows.sum(0)
        order = ones.argsort(stable=True)
        first, last = ((ones[order] > 0) & (ones[order] < len(windows))).nonzero()[[0, -1], 0].tolist()
        start = min(max(0, (first + last + 1 - together) // 2), count - together)
        sorts.append(order[start : start + together].tolist())
        windows[:, sorts[-1]] = windows[:, sorts[-1]].sort(1).values
    return sorts, int(found.nonzero()[0])


def _entries(size: int) -> list[tuple[int, int]]:
    """Those (i,j) of a window, its columns and rows being sorted, that may be its median; small ones first."""
    return sorted(((i, j) for i in range(size) for j in _open_ranks(size, i)), key=sum)


def _zeros_and_ones(size: int) -> tuple[Tensor, Tensor]:
    """[P,E] bool: the `_entries` of all windows of zeros and ones that decide what finds the median; [P] their medians.

    By the 0-1 principle a network finds it if it does so for zeros and ones, and minima and maxima being monotone, if
    it does so where the zeros just are, or just are not, the majority.
    """
    majority, entries = (size * size + 1) // 2, _entries(size)
    zeros_of_rows = [  # of each row; sorted, as columns are
        zeros
        for zeros in combinations_with_replacement(range(size, -1, -1), size)
        if sum(zeros) in (majority - 1, majority)
    ]
    windows = torch.tensor([[j >= zeros[i] for i, j in entries] for zeros in zeros_of_rows])
    return windows, torch.tensor([sum(zeros) < majority for zeros in zeros_of_rows])


@lru_cache(maxsize=64)
def _network(wires: int, wanted: frozenset[int]) -> tuple[Comparator, ...]:
    """What sorts as many wires as far as some of them are wanted."""
    return needed_for(wanted, sorting_network(wires))
