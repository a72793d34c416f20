import ctypes
import itertools
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cliptrase_d2.pipeline.sorting_network import prune, run, sort_planes, sorting_network, write_sort_source


@pytest.mark.parametrize("wires", [1, 2, 3, 5, 7, 8, 11])
def test_a_sorting_network_sorts(wires: int) -> None:
    # By the 0-1 principle, a network that sorts all zeros and ones sorts everything.
    planes = torch.tensor(list(itertools.product([0.0, 1.0], repeat=wires))).T  # [wires,2^wires]
    network = prune(sorting_network(wires), range(wires))
    assert torch.equal(torch.stack(run(list(planes), network)), planes.sort(0).values)


def test_two_wires_by_hand() -> None:
    low, high = run([torch.tensor([3.0, 1.0]), torch.tensor([2.0, 5.0])], ((0, 1, True, True),))
    assert (low.tolist(), high.tolist()) == ([2.0, 1.0], [3.0, 5.0])


def test_a_pruned_network_computes_only_its_outputs() -> None:
    # The median of three numbers takes one result of the second and of the third comparator.
    assert sorting_network(3) == [(0, 1), (0, 2), (1, 2)]
    network = prune(sorting_network(3), {1})
    assert network == ((0, 1, True, True), (0, 2, False, True), (1, 2, True, False))
    planes = torch.tensor(list(itertools.permutations([1.0, 2.0, 3.0]))).T
    assert run(list(planes), network)[1].tolist() == [2.0] * 6


@pytest.mark.parametrize("count", [1, 2, 7, 8])
def test_planes_are_sorted_at_each_position(count: int) -> None:
    planes = torch.rand(count, 4, 5)
    assert torch.equal(torch.stack(sort_planes(list(planes))), planes.sort(0).values)


@pytest.mark.parametrize("count", [2, 5, 8])
def test_the_kernel_source_equals_the_comparators(count: int, tmp_path: Path) -> None:
    """The source of the GPU kernel, compiled for the CPU, treats NaN as torch's minimum and maximum do."""
    if not (compiler := shutil.which("c++")):
        pytest.skip("no C++ compiler")
    planes = torch.randint(-3, 4, (count, 64)).float()
    planes[1, ::7], planes[0, ::9] = torch.nan, torch.inf
    expected = torch.stack(sort_planes(list(planes)))
    torch.testing.assert_close(sort_compiled(planes, compiler, tmp_path), expected, atol=0, rtol=0, equal_nan=True)


def sort_compiled(planes: Tensor, compiler: str, folder: Path) -> Tensor:
    """Sort planes [n,positions] with the compiled source of a kernel."""
    count, positions = planes.shape
    inputs = ", ".join(f"v[{plane} * n + p]" for plane in range(count))
    loop = f"for (int p = 0; p < n; ++p) kernel({inputs}, {inputs.replace('v', 'o')});"
    source, library = folder / "kernel.cpp", folder / "kernel.so"
    source.write_text(
        write_sort_source(count, "kernel") + f'extern "C" void all(float* v, float* o, int n) {{ {loop} }}'
    )
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    sorted_planes = torch.empty_like(planes)
    function = ctypes.CDLL(str(library)).all
    function(ctypes.c_void_p(planes.data_ptr()), ctypes.c_void_p(sorted_planes.data_ptr()), ctypes.c_int(positions))
    return sorted_planes


@pytest.mark.gpu
@pytest.mark.parametrize("count", [1, 2, 7, 8])
def test_gpu_and_cpu_agree(count: int) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    planes = torch.randn(count, 3, 20, 17)
    planes[0, 0, ::3] = torch.nan
    for crop in (slice(None), slice(2, None)):  # whole planes, and views of larger ones
        expected = torch.stack(sort_planes([plane[:, crop, crop] for plane in planes]))
        for inputs in ([plane[:, crop, crop] for plane in planes.cuda()], [p[:, crop, crop].cuda() for p in planes]):
            result = torch.stack(sort_planes(inputs)).cpu()
            torch.testing.assert_close(result, expected, atol=0, rtol=0, equal_nan=True)
