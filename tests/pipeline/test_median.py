import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cliptrase_d2.pipeline import median
from cliptrase_d2.pipeline.median import median_filter
from tests.pipeline import reference


@pytest.mark.parametrize("size", [1, 3, 5, 7, 9, 11])
def test_filter_equals_scipys(size: int) -> None:
    maps = torch.rand(3, 20, 14)
    original = maps.clone()
    assert torch.equal(median_filter(maps, size), reference.median_filter(maps, size))
    assert torch.equal(maps, original)
    assert median_filter(maps[:0], size).shape == (0, 20, 14)


@given(
    size=st.sampled_from([3, 5, 7, 9]),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    values=st.sampled_from([2, 3, 1000]),
    seed=st.integers(0, 1000),
)
def test_filter_equals_scipys_on_small_and_tied_maps(
    size: int, height: int, width: int, values: int, seed: int
) -> None:
    maps = torch.randint(values, (2, height, width), generator=torch.Generator().manual_seed(seed)).float()
    assert torch.equal(median_filter(maps, size), reference.median_filter(maps, size))


@pytest.mark.parametrize("size", [3, 5, 7])
def test_filter_by_sorts_equals_scipys(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    maps = torch.cat([torch.rand(2, 20, 14), torch.randint(3, (2, 20, 14)).float()])
    monkeypatch.setattr(median, "_filter", median._filter_by_sorts)  # the filter of a GPU
    assert torch.equal(median_filter(maps, size), reference.median_filter(maps, size))


def test_few_sorts_find_the_median() -> None:
    counts = {size: [len(sort) for sort in median._build_selection_by_sorts(size)[0]] for size in (3, 5, 7)}
    assert counts == {3: [3], 5: [8, 8], 7: 6 * [8]}


@pytest.mark.gpu
@pytest.mark.parametrize("size", [3, 7, 9])
def test_gpu_and_cpu_agree(size: int) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    maps = torch.rand(3, 20, 14)
    assert torch.equal(median_filter(maps.cuda(), size).cpu(), median_filter(maps, size))


def test_a_row_by_hand() -> None:
    # A single row is mirrored into three equal ones, so the 3×3 median is that of three neighbours:
    # 9 9 1, 9 1 5, 1 5 2, 5 2 2.
    row = torch.tensor([[[9.0, 1.0, 5.0, 2.0]]])
    assert median_filter(row, 3).tolist() == [[[9.0, 5.0, 2.0, 2.0]]]


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = torch.rand(5, 8, 8)
    expected = median_filter(maps, 5)
    monkeypatch.setattr(median, "_PLANE_VALUES_CPU", 2 * 8 * 8)  # two maps, two maps, one
    assert torch.equal(median_filter(maps, 5), expected)
