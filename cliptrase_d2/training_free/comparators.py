"""Networks of comparators over whole planes: a minimum and a maximum at a time, or on a GPU as many as fit a kernel.

A plane is one tensor, a wire holds one at a time, and a comparator puts the smaller of two numbers on its first wire,
the larger one on its second, at every place of the planes at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.cuda import jiterator

# Wires a < b, and whether their minimum (on a) and their maximum (on b) are used. Of two numbers that cannot be
# ordered, one being NaN, both are NaN.
Comparator = tuple[int, int, bool, bool]

_KERNEL_PLANES = 8  # that a kernel of jiterator may read


@dataclass(frozen=True)
class Group:
    """Comparators that run together.

    Attributes:
        comparators: in their order.
        wires: that they read.
        written: those of them that are read afterwards.
    """

    comparators: tuple[Comparator, ...]
    wires: tuple[int, ...]
    written: tuple[int, ...]


def run(planes: Sequence[Tensor], network: tuple[Comparator, ...]) -> list[Tensor]:
    """What is on the wires in the end; on wires whose last comparator is not used, anything.

    Args:
        planes: one per wire, all of one shape and device.
        network: the comparators in their order.
    """
    wires = list(planes)
    if wires[0].is_cuda:
        for group, kernel in _kernels(network):
            found = kernel(*(wires[wire] for wire in group.wires))
            for wire, plane in zip(group.written, found if len(group.written) > 1 else [found], strict=True):
                wires[wire] = plane
        return wires
    for a, b, low, high in network:
        first, second = wires[a], wires[b]
        if low:
            wires[a] = torch.minimum(first, second)
        if high:
            wires[b] = torch.maximum(first, second)
    return wires


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


def grouped(network: Sequence[Comparator], most_wires: int) -> list[Group]:
    """A network in groups that run one after the other and touch no more than so many wires each.

    Greedy: a group takes whichever comparator, of those that wait for no other, brings the fewest new wires.
    """
    left, groups = list(network), []
    while left:
        taken: list[Comparator] = []
        wires: set[int] = set()
        while fitting := [c for c in _waiting_for_none(left) if len(wires | {c[0], c[1]}) <= most_wires]:
            best = min(fitting, key=lambda comparator: len({comparator[0], comparator[1]} - wires))
            left.remove(best)
            taken.append(best)
            wires |= {best[0], best[1]}
        used = {wire: used for a, b, low, high in taken for wire, used in ((a, low), (b, high))}  # the last one counts
        groups.append(Group(tuple(taken), tuple(sorted(wires)), tuple(wire for wire in sorted(wires) if used[wire])))
    return groups


def kernel_source(group: Group, name: str) -> str:
    """C++ of a group for one place of the planes: i0, i1, … are read, and o0, o1, … or the result written."""
    given = [f"T i{wire}" for wire in group.wires]
    several = len(group.written) > 1
    targets = [f"T& o{wire}" for wire in group.written] if several else []
    lines = [f"T v{wire} = i{wire};" for wire in group.wires]
    for a, b, low, high in group.comparators:
        steps = [f"T x = v{a}, y = v{b};"]
        if low:
            steps.append(f"v{a} = (x != x || x < y) ? x : y;")
        if high:
            steps.append(f"v{b} = (x != x || x > y) ? x : y;")
        lines.append("{ " + " ".join(steps) + " }")
    lines += [f"o{wire} = v{wire};" for wire in group.written] if several else [f"return v{group.written[0]};"]
    body = "\n  ".join(lines)
    result = "void" if several else "T"
    return f"template <typename T> {result} {name}({', '.join(given + targets)}) {{\n  {body}\n}}\n"


def _waiting_for_none(network: Sequence[Comparator]) -> list[Comparator]:
    """The comparators that come first on both of their wires."""
    seen: set[int] = set()
    first = []
    for comparator in network:
        wires = {comparator[0], comparator[1]}
        if not wires & seen:
            first.append(comparator)
        seen |= wires
    return first


@lru_cache(maxsize=64)
def _kernels(network: tuple[Comparator, ...]) -> list[tuple[Group, Callable[..., Tensor]]]:
    """A network as kernels, which PyTorch compiles when they are first called, and keeps on disk where it can."""
    kernels = []
    for group in grouped(network, _KERNEL_PLANES):
        # PyTorch knows kernels by their names.
        name = f"comparators_{hashlib.sha256(repr(group).encode()).hexdigest()[:16]}"
        source = kernel_source(group, name)
        if len(group.written) > 1:
            kernels.append((group, jiterator._create_multi_output_jit_fn(source, num_outputs=len(group.written))))
        else:
            kernels.append((group, jiterator._create_jit_fn(source)))
    return kernels
