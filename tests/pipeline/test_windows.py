from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cliptrase_d2.pipeline.windows import Windows, cut, stitch_correlation, stitch_patches
from tests.pipeline import reference

GRIDS = st.tuples(st.integers(1, 12), st.integers(1, 12))


def test_the_last_window_of_a_row_ends_with_the_image() -> None:
    assert Windows.cover((4, 9), window=4, stride=2).corners == ((0, 0), (0, 2), (0, 4), (0, 5))


def test_a_stride_that_fits_adds_no_window() -> None:
    # 336 pixels by windows of 224 every 112, patch 16: the protocol's own numbers.
    assert Windows.cover((21, 28), 14, 7).corners == ((0, 0), (0, 7), (0, 14), (7, 0), (7, 7), (7, 14))


def test_a_window_larger_than_the_image_is_the_image() -> None:
    windows = Windows.cover((3, 20), window=14, stride=7)
    assert windows.window == (3, 14)
    assert windows.corners == ((0, 0), (0, 6))
    assert Windows.cover((3, 5), 14, 7).corners == ((0, 0),)


@given(grid=GRIDS, window=st.integers(1, 8), stride=st.integers(1, 8))
def test_windows_see_every_patch_and_stay_inside(grid: tuple[int, int], window: int, stride: int) -> None:
    windows = Windows.cover(grid, window, min(stride, window))
    seen = set(windows.patch_index(torch.device("cpu")).flatten().tolist())
    assert seen == set(range(grid[0] * grid[1]))
    assert len(set(windows.corners)) == len(windows.corners)


def test_patch_index_names_patches_of_the_whole_image() -> None:
    windows = Windows(grid=(3, 4), window=(2, 2), corners=((0, 0), (1, 2)))
    assert windows.patch_index(torch.device("cpu")).tolist() == [[0, 1, 4, 5], [6, 7, 10, 11]]


def test_cut_takes_the_pixels_of_the_patches() -> None:
    images = torch.randn(2, 3, 12, 20)
    windows = Windows.cover((3, 5), window=2, stride=2)
    views = cut(images, windows, patch_size=4)
    assert views.shape == (2 * len(windows.corners), 3, 8, 8)
    for image in range(2):
        for index, (row, column) in enumerate(windows.corners):
            expected = images[image, :, 4 * row : 4 * row + 8, 4 * column : 4 * column + 8]
            assert torch.equal(views[image * len(windows.corners) + index], expected)


@given(grid=GRIDS, window=st.integers(1, 8), stride=st.integers(1, 8), seed=st.integers(0, 100))
def test_stitched_patches_are_the_mean_over_their_windows(
    grid: tuple[int, int], window: int, stride: int, seed: int
) -> None:
    windows = Windows.cover(grid, window, min(stride, window))
    chance = torch.Generator().manual_seed(seed)
    features = torch.randn(2, len(windows.corners), *windows.window, 3, generator=chance)
    found = stitch_patches(features.flatten(2, 3), windows)
    for image in range(2):
        expected = reference.stitch(list(features[image]), list(windows.corners), grid)
        torch.testing.assert_close(found[image].double(), expected.flatten(0, 1), atol=1e-6, rtol=1e-5)


def test_stitched_correlation_is_the_mean_over_windows_that_saw_both_patches() -> None:
    windows = Windows.cover((3, 5), window=3, stride=1)
    inside = windows.patch_index(torch.device("cpu")).tolist()
    correlation = torch.rand(2, len(inside), 9, 9)
    found = stitch_correlation(correlation, windows)
    for image in range(2):
        for a in range(15):
            for b in range(15):
                both = [
                    correlation[image, k, patches.index(a), patches.index(b)].item()
                    for k, patches in enumerate(inside)
                    if a in patches and b in patches
                ]
                expected = sum(both) / len(both) if both else 0.0
                assert found[image, a, b].item() == pytest.approx(expected, abs=1e-6)


def test_one_window_changes_nothing() -> None:
    windows = Windows.cover((3, 4), window=14, stride=7)
    features, correlation = torch.randn(2, 1, 12, 5), torch.rand(2, 1, 12, 12)
    assert torch.equal(stitch_patches(features, windows), features[:, 0])
    assert torch.equal(stitch_correlation(correlation, windows), correlation[:, 0])
