from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cliptrase_d2.pipeline import upsample as bilinear
from cliptrase_d2.pipeline.upsample import region_weights, upsampled_argmax
from tests import forked
from tests.pipeline import reference

sides = st.integers(1, 9)
lengths = st.integers(1, 40)
seeds = st.integers(0, 10_000)


def dense(scores: Tensor, size: tuple[int, int]) -> Tensor:
    return torch.stack([reference.first_argmax(reference.upsample(image, size)) for image in scores])


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(classes=st.integers(1, 30), grid=st.tuples(sides, sides), size=st.tuples(lengths, lengths), seed=seeds)
def test_random_scores_give_the_dense_argmax(
    classes: int, grid: tuple[int, int], size: tuple[int, int], seed: int
) -> None:
    scores = torch.randn(2, classes, *grid, generator=seeded(seed))
    assert torch.equal(upsampled_argmax(scores, size), dense(scores, size))


@given(
    classes=st.integers(1, 30),
    grid=st.tuples(sides, sides),
    factors=st.tuples(st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4, 16])),
    values=st.integers(1, 4),
    seed=seeds,
)
def test_among_equal_scores_the_smallest_class_wins(
    classes: int, grid: tuple[int, int], factors: tuple[int, int], values: int, seed: int
) -> None:
    # Small integers and factors that are powers of two: all weights and sums are exact, so ties are true ties.
    scores = torch.randint(values, (2, classes, *grid), generator=seeded(seed)).float()
    size = (grid[0] * factors[0], grid[1] * factors[1])
    assert torch.equal(upsampled_argmax(scores, size), dense(scores, size))


@given(classes=st.integers(1, 30), grid=st.tuples(sides, sides), size=st.tuples(lengths, lengths), seed=seeds)
def test_ties_at_any_size_differ_from_the_dense_argmax_by_rounding_alone(
    classes: int, grid: tuple[int, int], size: tuple[int, int], seed: int
) -> None:
    # Weights such as 1/3 are rounded, and what torch makes of a true tie depends on its instructions.
    scores = torch.randint(4, (1, classes, *grid), generator=seeded(seed)).float()
    values = reference.upsample(scores[0], size)
    found = values.gather(0, upsampled_argmax(scores, size))[0]
    torch.testing.assert_close(found, values.amax(0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(9, 5), (4, 7), (2, 2), (1, 1), (18, 3), (3, 1)])
def test_sizes_below_the_grid(size: tuple[int, int]) -> None:
    scores = torch.randn(1, 6, 9, 7)
    assert torch.equal(upsampled_argmax(scores, size), dense(scores, size))


@pytest.mark.parametrize("size", [(224, 224), (375, 500), (333, 77)])
def test_847_classes_on_a_non_square_grid(size: tuple[int, int]) -> None:
    scores = torch.randn(1, 847, 6, 11)
    assert torch.equal(upsampled_argmax(scores, size), dense(scores, size))


@pytest.mark.parametrize("grid", [(1, 1), (1, 8), (8, 1)])
def test_a_grid_of_one_row_or_column(grid: tuple[int, int]) -> None:
    scores = torch.randn(2, 12, *grid)
    assert torch.equal(upsampled_argmax(scores, (20, 30)), dense(scores, (20, 30)))


def test_a_single_class_wins_everywhere() -> None:
    assert upsampled_argmax(torch.randn(2, 1, 3, 4), (10, 11)).eq(0).all()


def test_all_scores_equal_is_class_zero() -> None:
    assert upsampled_argmax(torch.full((1, 847, 14, 14), -3.0), (224, 224)).eq(0).all()


def test_a_class_may_win_between_the_points_it_loses() -> None:
    # The right point weighs 0, 0.1, 0.5, 0.9, 1 in the five pixels: class 0 has 6 5.4 3 0.6 0, class 1 the mirror
    # image, and class 2, second at both points, always 4.
    scores = torch.tensor([[[[6.0, 0.0]], [[0.0, 6.0]], [[4.0, 4.0]]]])
    assert upsampled_argmax(scores, (1, 5)).tolist() == [[[0, 0, 2, 1, 1]]]


def test_bands_of_rows_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = torch.randn(2, 9, 7, 5)
    whole = upsampled_argmax(scores, (40, 33))
    monkeypatch.setattr(bilinear, "_CORNER_VALUES_CPU", 4 * 9 * 5 * 2)  # two grid rows at a time, the last one alone
    assert torch.equal(upsampled_argmax(scores, (40, 33)), whole)


def test_a_batch_equals_its_images_one_by_one() -> None:
    scores = torch.randn(3, 20, 5, 6)
    alone = torch.cat([upsampled_argmax(image[None], (30, 31)) for image in scores])
    assert torch.equal(upsampled_argmax(scores, (30, 31)), alone)


def test_half_precision_scores_are_read_as_they_are() -> None:
    scores = torch.randn(1, 20, 5, 6).bfloat16()
    assert torch.equal(upsampled_argmax(scores, (30, 31)), dense(scores.float(), (30, 31)))


@given(regions=st.integers(1, 6), grid=st.tuples(sides, sides), size=st.tuples(lengths, lengths), seed=seeds)
def test_region_weights_sum_what_dense_upsampling_sums(
    regions: int, grid: tuple[int, int], size: tuple[int, int], seed: int
) -> None:
    region = torch.randint(regions, size, generator=seeded(seed))
    scores = torch.randn(4, *grid, dtype=torch.float64, generator=seeded(seed + 1))
    weights = region_weights(region, regions, grid)
    assert weights.shape == (regions, grid[0] * grid[1])
    assert (weights >= 0).all()
    pixels = torch.bincount(region.flatten(), minlength=regions).double()
    torch.testing.assert_close(weights.sum(1), pixels)
    upsampled = reference.upsample(scores, size)
    expected = torch.stack([upsampled[:, region == index].sum(1) for index in range(regions)])  # [Q,4]
    torch.testing.assert_close(weights @ scores.flatten(1).T, expected, atol=1e-4, rtol=1e-4)


MEMORY = """
import torch
from cliptrase_d2.pipeline.upsample import upsampled_argmax

def resident(key):
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith(key)).split()[1]) * 1024

scores = torch.zeros(1, 847, 64, 128)
before = resident("VmRSS")
upsampled_argmax(scores, (1024, 2048))
print(resident("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_memory_does_not_grow_with_classes_times_pixels(tmp_path: Path) -> None:
    # Equal scores are the hardest: no class is ruled out by its values alone. Dense, this would take 7 GB.
    (tmp_path / "script.py").write_text(MEMORY)
    done = forked.run([str(tmp_path / "script.py")], tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1e9
