"""Exact median filter as a fixed sequence of minima and maxima of whole planes.

Sorting finds the median of one window at a time. Here one comparison serves all windows at once, so the filter is
batched tensor work on any device. Columns are sorted once and shared by the windows that overlap them. Sorting the rows
of sorted columns then rules out every entry that too many others bound from one side. Of a sorting network of the
remaining entries, only the comparisons that can affect the median are made.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations_with_replacement

import torch
from torch import Tensor

from cliptrase_d2.pipeline.sorting_network import MOST_PLANES, Comparator, prune, run, sort_planes, sorting_network

# Windows at a time. About thirty planes of them fit into a CPU's cache; elsewhere they are worth a kernel launch.
_PLANE_VALUES_CPU, _PLANE_VALUES = 2**16, 2**23
_LARGEST_TRIED = 9  # side up to which all arrangements are tried, once: 50,000 zeros and ones, far more beyond


def median_filter(maps: Tensor, size: int) -> Tensor:
    """Return the median of size×size windows, with symmetric borders (… c b a | a b c …).

    Args:
        maps: [Q,H,W] real numbers. A map narrower than the border is mirrored repeatedly.
        size: odd side of the windows; 1 returns the maps unchanged.
    Returns:
        [Q,H,W]. Every value is one of the input's.
    """
    if size == 1 or not len(maps):
        return maps
    _, height, width = maps.shape
    rows, columns = (_mirror(length, size // 2, maps.device) for length in (height, width))
    padded = maps[:, rows][:, :, columns]  # [Q,H+size-1,W+size-1]
    values = _PLANE_VALUES_CPU if maps.device.type == "cpu" else _PLANE_VALUES
    chunk = max(1, values // (height * width))
    median = _filter_by_sorts if maps.is_cuda and size < MOST_PLANES else _filter
    parts = [median(part, size, height, width) for part in padded.split(chunk)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # training cannot use inference tensors that an evaluation has cached
def _mirror(length: int, margin: int, device: torch.device) -> Tensor:
    """Return the index of each position from -margin to length+margin-1 with symmetric borders."""
    index = torch.arange(-margin, length + margin, device=device) % (2 * length)
    return torch.minimum(index, 2 * length - 1 - index)


def _filter(padded: Tensor, size: int, height: int, width: int) -> Tensor:
    columns = run([padded[:, i : i + height] for i in range(size)], _build_network(size, frozenset(range(size))))
    rows = []
    for i, column in enumerate(columns):
        network = _build_network(size, frozenset(_find_columns(size, i)))
        rows.append(run([column[:, :, j : j + width] for j in range(size)], network))
    entries, network = _build_selection(size)
    return run([rows[i][j] for i, j in entries], network)[len(entries) // 2]


def _find_columns(size: int, i: int) -> list[int]:
    """Return the columns that may hold the median in row i of a window with sorted columns and rows.

    Entry (i,j) is the largest of (i+1)(j+1) entries and the smallest of (size-i)(size-j).
    """
    rank = (size * size + 1) // 2
    return [j for j in range(size) if (i + 1) * (j + 1) <= rank and (size - i) * (size - j) <= rank]


@lru_cache(maxsize=8)
def _build_selection(size: int) -> tuple[list[tuple[int, int]], tuple[Comparator, ...]]:
    """Return the entries (i,j) of a sorted window that may be its median, and the network that finds it among them.

    As many entries are ruled out below as above, so the network moves the median to the middle of the rest. Comparators
    that never swap zeros and ones are left out.
    """
    entries = _find_entries(size)
    comparators, middle = sorting_network(len(entries)), len(entries) // 2
    if size > _LARGEST_TRIED:
        return entries, prune(comparators, {middle})
    wires, swapping = list(_build_decisive_windows(size)[0].unbind(1)), []
    for a, b in comparators:
        low, high = wires[a] & wires[b], wires[a] | wires[b]
        if not torch.equal(low, wires[a]):
            wires[a], wires[b] = low, high
            swapping.append((a, b))
    return entries, prune(swapping, {middle})


def _filter_by_sorts(padded: Tensor, size: int, height: int, width: int) -> Tensor:
    """Filter as `_filter` does, on devices that sort several planes faster than they run single comparators."""
    columns = sort_planes([padded[:, i : i + height] for i in range(size)])
    rows = [sort_planes([column[:, :, j : j + width] for j in range(size)]) for column in columns]
    wires = [rows[i][j] for i, j in _find_entries(size)]
    sorts, median = _build_selection_by_sorts(size)
    for sort in sorts:
        for wire, plane in zip(sort, sort_planes([wires[wire] for wire in sort]), strict=True):
            wires[wire] = plane
    return wires[median]


@lru_cache(maxsize=8)
def _build_selection_by_sorts(size: int) -> tuple[list[list[int]], int]:
    """Return the wires of each of a sequence of sorts, and the wire that holds the median in the end.

    Each sort takes the middle of the wires that may still hold the median. A wire that is zero, or one, in all decisive
    windows cannot hold it. 7×7 windows take six sorts of eight wires.
    """
    windows, medians = _build_decisive_windows(size)
    count = windows.shape[1]
    together = min(MOST_PLANES, count)
    sorts = []
    while not (is_median := (windows == medians[:, None]).all(0)).any():
        ones = windows.sum(0)
        order = ones.argsort(stable=True)
        first, last = ((ones[order] > 0) & (ones[order] < len(windows))).nonzero()[[0, -1], 0].tolist()
        start = min(max(0, (first + last + 1 - together) // 2), count - together)
        sorts.append(order[start : start + together].tolist())
        windows[:, sorts[-1]] = windows[:, sorts[-1]].sort(1).values
    return sorts, int(is_median.nonzero()[0])


def _find_entries(size: int) -> list[tuple[int, int]]:
    """Return the entries (i,j) of a window with sorted columns and rows that may be its median, small ones first."""
    return sorted(((i, j) for i in range(size) for j in _find_columns(size, i)), key=sum)


def _build_decisive_windows(size: int) -> tuple[Tensor, Tensor]:
    """Return decisive windows of zeros and ones, [P,E] bool with the open entries of each, and their medians, [P] bool.

    By the 0-1 principle a network finds every median if it finds that of zeros and ones. Since minima and maxima are
    monotone, windows where the zeros are just, or just not, the majority suffice.
    """
    majority, entries = (size * size + 1) // 2, _find_entries(size)
    zeros_of_rows = [  # sorted, as the columns are
        zeros
        for zeros in combinations_with_replacement(range(size, -1, -1), size)
        if sum(zeros) in (majority - 1, majority)
    ]
    windows = torch.tensor([[j >= zeros[i] for i, j in entries] for zeros in zeros_of_rows])
    return windows, torch.tensor([sum(zeros) < majority for zeros in zeros_of_rows])


@lru_cache(maxsize=64)
def _build_network(wires: int, needed: frozenset[int]) -> tuple[Comparator, ...]:
    """Return a sorting network, pruned to the needed wires."""
    return prune(sorting_network(wires), needed)
