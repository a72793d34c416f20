"""Networks of comparators over whole planes: a minimum and a maximum at a time, or on a GPU a whole sort in a kernel.

A plane is one tensor, a wire holds one at a time, and a comparator puts the smaller of two numbers on its first wire,
the larger one on its second, at every place of the planes at once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.cuda import jiterator

# Wires a < b, and whether their minimum (on a) and their maximum (on b) are used. NaN on one of them is NaN on both.
Comparator = tuple[int, int, bool, bool]

MOST_PLANES = 8  # that PyTorch lets one kernel read


def run(planes: Sequence[Tensor], network: Sequence[Comparator]) -> list[Tensor]:
    """What is on the wires in the end; on wires whose last comparator is not used, anything.

    Args:
        planes: one per wire, all of one shape and device.
        network: the comparators in their order.
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
    """The smallest number of every place on the first plane, and so on; on a GPU in one kernel.

    PyTorch compiles the kernel for a number of planes when it is first called, in about a second, and keeps it on disk.

    Args:
        planes: up to `MOST_PLANES` of them, all of one shape and device.
    """
    if planes[0].is_cuda and len(planes) > 1:
        return list(_kernel(len(planes))(*planes))
    return run(planes, needed_for(range(len(planes)), sorting_network(len(planes))))


def sorting_network(wires: int) -> list[tuple[int, int]]:
    """Batcher's odd-even merge sort (AFIPS 1968), as pairs of wires."""
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


def needed_for(wanted: Collection[int], pairs: Sequence[tuple[int, int]]) -> tuple[Comparator, ...]:
    """A network without the comparators, and halves of them, that no wanted wire depends on."""
    needed, kept = set(wanted), []
    for a, b in reversed(pairs):
        if a in needed or b in needed:
            kept.append((a, b, a in needed, b in needed))
            needed |= {a, b}
    return tuple(reversed(kept))


def sort_source(planes: int, name: str) -> str:
    """C++ of a sort at one place of the planes: i0, i1, … are read, o0, o1, … written."""
    wires = range(planes)
    lines = [f"T v{wire} = i{wire};" for wire in wires]
    for a, b in sorting_network(planes):
        low, high = (f"(x != x || x {sign} y) ? x : y" for sign in "<>")  # x where it is NaN, y where that is
        lines.append(f"{{ T x = v{a}, y = v{b}; v{a} = {low}; v{b} = {high}; }}")
    lines += [f"o{wire} = v{wire};" for wire in wires]
    arguments = [*(f"T i{wire}" for wire in wires), *(f"T& o{wire}" for wire in wires)]
    body = "\n  ".join(lines)
    return f"template <typename T> void {name}({', '.join(arguments)}) {{\n  {body}\n}}\n"


@lru_cache(maxsize=MOST_PLANES)
def _kernel(planes: int) -> Callable[..., tuple[Tensor, ...]]:
    source = sort_source(planes, f"sort_{planes}_planes")  # PyTorch knows kernels by their names
    return jiterator._create_multi_output_jit_fn(source, num_outputs=planes)
