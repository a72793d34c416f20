from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cliptrase_d2.pipeline import upsample
from cliptrase_d2.pipeline.upsample import (
    region_weights,
    upsampled_argmax,
    upsampled_at,
    upsampled_rows,
    upsampled_sums,
)
from tests import forked
from tests.pipeline import reference

sides = st.integers(1, 9)
lengths = st.integers(1, 40)
seeds = st.integers(0, 10_000)


def check_argmax(scores: Tensor, size: tuple[int, int]) -> None:
    expected = [reference.first_argmax(reference.upsample(image, size)) for image in scores.float()]
    assert torch.equal(upsampled_argmax(scores, size), torch.stack(expected))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(classes=st.integers(1, 30), grid=st.tuples(sides, sides), size=st.tuples(lengths, lengths), seed=seeds)
def test_random_scores_equal_the_dense_argmax(
    classes: int, grid: tuple[int, int], size: tuple[int, int], seed: int
) -> None:
    check_argmax(torch.randn(2, classes, *grid, generator=seeded(seed)), size)


@given(
    classes=st.integers(1, 30),
    grid=st.tuples(sides, sides),
    factors=st.tuples(st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4, 16])),
    values=st.integers(1, 4),
    seed=seeds,
)
def test_the_smallest_class_of_equal_scores_wins(
    classes: int, grid: tuple[int, int], factors: tuple[int, int], values: int, seed: int
) -> None:
    # With small integers and powers of two, all weights and sums are exact, so ties are true ties.
    scores = torch.randint(values, (2, classes, *grid), generator=seeded(seed)).float()
    check_argmax(scores, (grid[0] * factors[0], grid[1] * factors[1]))


@given(classes=st.integers(1, 9), grid=st.tuples(sides, sides), size=st.tuples(lengths, lengths), seed=seeds)
def test_scores_at_labels_and_in_rows_equal_the_dense_scores(
    classes: int, grid: tuple[int, int], size: tuple[int, int], seed: int
) -> None:
    scores = torch.rand(classes, *grid, generator=seeded(seed))
    dense = reference.upsample(scores, size)
    labels = torch.randint(-1, classes, size, generator=seeded(seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upsample, "_BAND_PIXELS", 64)  # several bands
        found, (sums, pixels) = upsampled_at(scores, labels), upsampled_sums(scores, labels)
    expected = dense.gather(0, labels.clamp_min(0)[None])[0].masked_fill(labels < 0, torch.nan)
    torch.testing.assert_close(found, expected, equal_nan=True)
    inside = labels == torch.arange(classes)[:, None, None]  # [C,H,W]
    torch.testing.assert_close(sums, (dense * inside).double().sum((1, 2)))
    assert torch.equal(pixels, inside.sum((1, 2)))
    start, stop = size[0] // 3, size[0] // 3 + 1
    torch.testing.assert_close(upsampled_rows(scores, size, start, stop), dense[:, start:stop])


def test_classes_can_have_other_numbers() -> None:
    scores, names = torch.randn(1, 3, 4, 5), torch.tensor([7, 0, 7])
    assert torch.equal(upsampled_argmax(scores, (40, 33), names), names[upsampled_argmax(scores, (40, 33))])


@given(classes=st.integers(1, 30), grid=st.tuples(sides, sides), size=st.tuples(lengths, lengths), seed=seeds)
def test_ties_at_any_size_differ_from_the_dense_argmax_by_rounding_only(
    classes: int, grid: tuple[int, int], size: tuple[int, int], seed: int
) -> None:
    # Weights such as 1/3 are rounded, and torch's result for a true tie depends on the processor.
    scores = torch.randint(4, (1, classes, *grid), generator=seeded(seed)).float()
    values = reference.upsample(scores[0], size)
    winning = values.gather(0, upsampled_argmax(scores, size))[0]
    torch.testing.assert_close(winning, values.amax(0), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        *(((1, 6, 9, 7), size) for size in ((9, 5), (4, 7), (2, 2), (1, 1), (18, 3), (3, 1))),  # below the grid
        *(((1, 847, 6, 11), size) for size in ((224, 224), (375, 500), (333, 77))),
        *(((2, 12, *grid), (20, 30)) for grid in ((1, 1), (1, 8), (8, 1))),  # one row or column
        ((2, 1, 3, 4), (10, 11)),
    ],
)
def test_odd_shapes(shape: tuple[int, ...], size: tuple[int, int]) -> None:
    check_argmax(torch.randn(*shape), size)
    check_argmax(torch.randn(*shape).bfloat16(), size)


def test_a_class_may_win_between_grid_points_where_it_loses() -> None:
    # The right point weighs 0, 0.1, 0.5, 0.9, 1 in the five pixels. Class 0 has 6 5.4 3 0.6 0, class 1 the mirror
    # image, and class 2, second at both points, always 4.
    scores = torch.tensor([[[[6.0, 0.0]], [[0.0, 6.0]], [[4.0, 4.0]]]])
    assert upsampled_argmax(scores, (1, 5)).tolist() == [[[0, 0, 2, 1, 1]]]


def test_bands_of_rows_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = torch.randn(2, 9, 7, 5)
    expected = upsampled_argmax(scores, (40, 33))
    monkeypatch.setattr(upsample, "_CORNER_VALUES_CPU", 4 * 9 * 5 * 2)  # two grid rows at a time, the last one alone
    assert torch.equal(upsampled_argmax(scores, (40, 33)), expected)


@given(regions=st.integers(1, 6), grid=st.tuples(sides, sides), size=st.tuples(lengths, lengths), seed=seeds)
def test_region_weights_give_the_sums_of_dense_upsampling(
    regions: int, grid: tuple[int, int], size: tuple[int, int], seed: int
) -> None:
    region = torch.randint(regions, size, generator=seeded(seed))
    scores = torch.randn(4, *grid, dtype=torch.float64, generator=seeded(seed + 1))
    weights = region_weights(region, regions, grid)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(1), torch.bincount(region.flatten(), minlength=regions).double())
    dense = reference.upsample(scores, size)
    expected = torch.stack([dense[:, region == index].sum(1) for index in range(regions)])  # [Q,4]
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
    # Equal scores are the worst case, since no class is ruled out by its values. Dense upsampling would take 7 GB.
    (tmp_path / "script.py").write_text(MEMORY)
    done = forked.run([str(tmp_path / "script.py")], tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1e9
