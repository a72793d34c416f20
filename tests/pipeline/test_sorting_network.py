from __future__ import annotations

import ctypes
import itertools
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cliptrase_d2.pipeline.sorting_network import Comparator, needed_for, run, sort_planes, sort_source, sorting_network

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


@pytest.mark.parametrize("count", [1, 2, 7, 8])
def test_planes_are_sorted_place_by_place(count: int) -> None:
    planes = torch.rand(count, 4, 5)
    assert torch.equal(torch.stack(sort_planes(list(planes))), planes.sort(0).values)


@pytest.mark.parametrize("count", [2, 5, 8])
def test_the_source_of_a_kernel_does_what_the_comparators_do(count: int, tmp_path: Path) -> None:
    """What a GPU is given, compiled for the processor; NaN goes on as torch's minimum and maximum let it."""
    if not (compiler := shutil.which("c++")):
        pytest.skip("no C++ compiler")
    planes = torch.randint(-3, 4, (count, 64)).float()
    planes[1, ::7], planes[0, ::9] = torch.nan, torch.inf
    found = compiled(planes, compiler, tmp_path)
    torch.testing.assert_close(found, torch.stack(sort_planes(list(planes))), atol=0, rtol=0, equal_nan=True)


def compiled(planes: Tensor, compiler: str, folder: Path) -> Tensor:
    """What the source of a kernel makes of planes [n,places]."""
    count, places = planes.shape
    given = ", ".join(f"v[{plane} * n + p]" for plane in range(count))
    loop = f"for (int p = 0; p < n; ++p) kernel({given}, {given.replace('v', 'o')});"
    source, library = folder / "kernel.cpp", folder / "kernel.so"
    source.write_text(sort_source(count, "kernel") + f'extern "C" void all(float* v, float* o, int n) {{ {loop} }}')
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    sorted_planes = torch.empty_like(planes)
    every = ctypes.CDLL(str(library)).all
    every(ctypes.c_void_p(planes.data_ptr()), ctypes.c_void_p(sorted_planes.data_ptr()), ctypes.c_int(places))
    return sorted_planes


@pytest.mark.gpu
@pytest.mark.parametrize("count", [1, 2, 7, 8])
def test_a_gpu_sorts_as_the_processor_does(count: int) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    planes = torch.randn(count, 3, 20, 17)
    planes[0, 0, ::3] = torch.nan
    inner = [plane[:, 2:, 1:] for plane in planes]  # windows that lie in larger planes
    for given in (list(planes), inner):
        found = torch.stack(sort_planes([plane.cuda() for plane in given])).cpu()
        torch.testing.assert_close(found, torch.stack(sort_planes(given)), atol=0, rtol=0, equal_nan=True)
    found = torch.stack(sort_planes([plane[:, 2:, 1:] for plane in planes.cuda()])).cpu()
    torch.testing.assert_close(found, torch.stack(sort_planes(inner)), atol=0, rtol=0, equal_nan=True)
