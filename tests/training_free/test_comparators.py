from __future__ import annotations

import ctypes
import itertools
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cliptrase_d2.training_free.comparators import (
    Comparator,
    Group,
    grouped,
    kernel_source,
    needed_for,
    run,
    sorting_network,
)

Network = tuple[Comparator, ...]


def sorting(wires: int) -> Network:
    return needed_for(range(wires), sorting_network(wires))


def zeros_and_ones(wires: int) -> Tensor:
    """[wires,2^wires]: by the 0-1 principle, what sorts these sorts everything."""
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=wires))).T


@pytest.mark.parametrize("wires", [1, 2, 3, 5, 7, 8, 11])
def test_a_sorting_network_sorts(wires: int) -> None:
    given = zeros_and_ones(wires)
    assert torch.equal(torch.stack(run(list(given), sorting(wires))), given.sort(0).values)


def test_two_wires_by_hand() -> None:
    low, high = run([torch.tensor([3.0, 1.0]), torch.tensor([2.0, 5.0])], ((0, 1, True, True),))
    assert (low.tolist(), high.tolist()) == ([2.0, 1.0], [3.0, 5.0])


def test_only_what_is_wanted_is_computed() -> None:
    # Of three numbers the middle one: its network needs one of the results of its second and its third comparator.
    assert sorting_network(3) == [(0, 1), (0, 2), (1, 2)]
    network = needed_for({1}, sorting_network(3))
    assert network == ((0, 1, True, True), (0, 2, False, True), (1, 2, True, False))
    given = torch.tensor(list(itertools.permutations([1.0, 2.0, 3.0]))).T
    assert run(list(given), network)[1].tolist() == [2.0] * 6


@pytest.mark.parametrize("most_wires", [2, 3, 8])
@pytest.mark.parametrize("wanted", [range(11), [5], [0, 10]])
def test_groups_do_what_the_network_does(wanted: Sequence[int], most_wires: int) -> None:
    network = needed_for(wanted, sorting_network(11))
    groups = grouped(network, most_wires)
    assert sorted(c for group in groups for c in group.comparators) == sorted(network)
    assert max(len(group.wires) for group in groups) <= most_wires
    planes = list(torch.rand(11, 50))
    expected = run(planes, network)
    for group in groups:
        found = run(planes, group.comparators)
        for wire in group.written:  # and nothing else is handed on
            planes[wire] = found[wire]
    assert all(torch.equal(planes[wire], expected[wire]) for wire in wanted)


def test_what_fits_a_kernel_is_one_group() -> None:
    (group,) = grouped(sorting(7), 8)
    assert (group.wires, group.written) == (tuple(range(7)), tuple(range(7)))
    assert len(group.comparators) == 16


@pytest.mark.parametrize("wanted", [[0, 1, 2, 3, 4], [1, 3], [2]])
def test_the_source_of_a_kernel_does_what_the_comparators_do(wanted: list[int], tmp_path: Path) -> None:
    """What a GPU is given, compiled for the processor; NaN goes on as torch's minimum and maximum let it."""
    if not (compiler := shutil.which("c++")):
        pytest.skip("no C++ compiler")
    (group,) = grouped(needed_for(wanted, sorting_network(5)), 8)
    planes = torch.randint(-3, 4, (5, 64)).float()
    planes[2, ::7], planes[0, ::9] = torch.nan, torch.inf
    expected = run(list(planes), group.comparators)
    found = compiled(group, planes, compiler, tmp_path)
    for wire, plane in zip(group.written, found, strict=True):
        torch.testing.assert_close(plane, expected[wire], atol=0, rtol=0, equal_nan=True)


def compiled(group: Group, planes: Tensor, compiler: str, folder: Path) -> Tensor:
    """What the source of a group's kernel writes, [written,places], for planes [wires,places]."""
    places = planes.shape[1]
    given = ", ".join(f"v[{wire} * n + p]" for wire in group.wires)
    results = [f"o[{index} * n + p]" for index in range(len(group.written))]
    call = f"kernel({given}, {', '.join(results)})" if len(results) > 1 else f"{results[0]} = kernel({given})"
    loop = f'extern "C" void all(const float* v, float* o, int n) {{ for (int p = 0; p < n; ++p) {call}; }}'
    source, library = folder / "kernel.cpp", folder / "kernel.so"
    source.write_text(kernel_source(group, "kernel") + loop)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    written = torch.empty(len(group.written), places)
    every = ctypes.CDLL(str(library)).all
    every(ctypes.c_void_p(planes.data_ptr()), ctypes.c_void_p(written.data_ptr()), ctypes.c_int(places))
    return written


@pytest.mark.gpu
def test_a_gpu_sorts_as_the_processor_does() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    planes = torch.randn(11, 3, 20, 17)
    planes[4, 0, ::3] = torch.nan
    network = sorting(11)
    shifted = [plane[:, 2:, 1:] for plane in planes]  # windows that lie in larger planes
    for found, expected in zip(run([p.cuda() for p in planes], network), run(list(planes), network), strict=True):
        torch.testing.assert_close(found.cpu(), expected, atol=0, rtol=0, equal_nan=True)
    on_gpu = [plane[:, 2:, 1:] for plane in planes.cuda()]
    for found, expected in zip(run(on_gpu, network), run(shifted, network), strict=True):
        torch.testing.assert_close(found.cpu(), expected, atol=0, rtol=0, equal_nan=True)
