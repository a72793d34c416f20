"""Sorting networks on whole planes, comparator by comparator, or on a GPU as one kernel.

A plane is a tensor, and each wire holds one plane. A comparator puts the minimum of two planes on its first wire and
their maximum on its second, for all positions at once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.cuda import jiterator

# Wires a < b, and whether their minimum (on a) and their maximum (on b) are used. A NaN on either wire spreads to both.
Comparator = tuple[int, int, bool, bool]

MOST_PLANES = 8  # inputs of one jiterator kernel


def run(planes: Sequence[Tensor], network: Sequence[Comparator]) -> list[Tensor]:
    """Return the planes after all comparators. A wire whose last result is unused may hold anything.

    Args:
        planes: one per wire, all of one shape and device.
        network: comparators in order.
    """
    wires = list(planes)
    for a, b, low, high in network:
        first, second = wires[a], wires[b]
        if low:
            wires[a] = torch.minimum(first, second)
        if high:
            wires[b] = torch.maximum(first, second)
    return wires


def sort_planes(planes: Sequence[Tensor]) -> list[Tensor]:
    """Sort the values at each position, the smallest on the first plane; on a GPU in one kernel.

    PyTorch compiles the kernel at the first call for a number of planes, in about a second, and caches it on disk.

    Args:
        planes: at most `MOST_PLANES`, all of one shape and device.
    """
    if planes[0].is_cuda and len(planes) > 1:
        return list(_build_kernel(len(planes))(*planes))
    return run(planes, prune(sorting_network(len(planes)), range(len(planes))))


def sorting_network(wires: int) -> list[tuple[int, int]]:
    """Return Batcher's odd-even merge sort (AFIPS 1968) as pairs of wires."""
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
    return comparators


def prune(pairs: Sequence[tuple[int, int]], outputs: Collection[int]) -> tuple[Comparator, ...]:
    """Return a network without the comparators, and results of comparators, that do not affect the output wires."""
    needed, network = set(outputs), []
    for a, b in reversed(pairs):
        if a in needed or b in needed:
            network.append((a, b, a in needed, b in needed))
            needed |= {a, b}
    return tuple(reversed(network))


def write_sort_source(planes: int, name: str) -> str:
    """Return the C++ source of a sort at one position, which reads i0, i1, … and writes o0, o1, …."""
    wires = range(planes)
    lines = [f"T v{wire} = i{wire};" for wire in wires]
    for a, b in sorting_network(planes):
        low, high = (f"(x != x || x {sign} y) ? x : y" for sign in "<>")  # x if it is NaN, and y if y is
        lines.append(f"{{ T x = v{a}, y = v{b}; v{a} = {low}; v{b} = {high}; }}")
    lines += [f"o{wire} = v{wire};" for wire in wires]
    arguments = [*(f"T i{wire}" for wire in wires), *(f"T& o{wire}" for wire in wires)]
    body = "\n  ".join(lines)
    return f"template <typename T> void {name}({', '.join(arguments)}) {{\n  {body}\n}}\n"


@lru_cache(maxsize=MOST_PLANES)
def _build_kernel(planes: int) -> Callable[..., tuple[Tensor, ...]]:
    source = write_sort_source(planes, f"sort_{planes}_planes")  # PyTorch identifies kernels by name
    return jiterator._create_multi_output_jit_fn(source, num_outputs=planes)
