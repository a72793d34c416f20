"""Exact median filter as a fixed series of minima and maxima over whole planes.

A median by sorting looks at one window after another. Here one comparison serves all windows at once, so the
filter is batched tensor work on any device: columns are sorted once and shared by the windows that overlap
them, sorting the rows of sorted columns then rules out every entry that too many others bound from one side,
and a pruned sorting network picks the median of the rest.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

_PLANE_VALUES = 2**16  # windows at a time: about thirty planes of them stay in a processor's cache

Comparator = tuple[int, int, bool, bool]  # wires a < b, and whether the minimum (a) and the maximum (b) are used


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
    chunk = max(1, _PLANE_VALUES // (height * width))
    return torch.cat([_filter(part, size, height, width) for part in padded.split(chunk)])


def _symmetric(length: int, margin: int, device: torch.device) -> Tensor:
    index = torch.arange(-margin, length + margin, device=device) % (2 * length)
    return torch.minimum(index, 2 * length - 1 - index)


def _filter(padded: Tensor, size: int, height: int, width: int) -> Tensor:
    columns = _run([padded[:, i : i + height] for i in range(size)], _network(size, frozenset(range(size))))
    rank = (size * size + 1) // 2
    undecided: list[Tensor] = []
    for i, column in enumerate(columns):
        # Sorted both ways, entry (i,j) has (i+1)(j+1) entries up to it and (size-i)(size-j) from it on.
        open_ranks = [j for j in range(size) if (i + 1) * (j + 1) <= rank and (size - i) * (size - j) <= rank]
        row = _run([column[:, :, j : j + width] for j in range(size)], _network(size, frozenset(open_ranks)))
        undecided += [row[j] for j in open_ranks]
    middle = len(undecided) // 2  # as many are ruled out below as above, so the median stays in the middle
    return _run(undecided, _network(len(undecided), frozenset([middle])))[middle]


def _run(wires: list[Tensor], network: tuple[Comparator, ...]) -> list[Tensor]:
    for a, b, low, high in network:
        first, second = wires[a], wires[b]
        if low:
            wires[a] = torch.minimum(first, second)
        if high:
            wires[b] = torch.maximum(first, second)
    return wires


@lru_cache(maxsize=64)
def _network(wires: int, wanted: frozenset[int]) -> tuple[Comparator, ...]:
    """Batcher's odd-even merge sort (AFIPS 1968) without the comparators that no wanted output depends on."""
    comparators = []
    block = 1
    while block < wires:
        step = block
        while step >= 1:
            for start in range(step % block, wires - step, 2 * step):
                for low in range(start, start + min(step, wires - start - step)):
                    if low // (2 * block) == (low + step) // (2 * block):
                        comparators.append((low, low + step))
            step //= 2
        block *= 2
    needed, kept = set(wanted), []
    for a, b in reversed(comparators):
        if a in needed or b in needed:
            kept.append((a, b, a in needed, b in needed))
            needed |= {a, b}
    return tuple(reversed(kept))
