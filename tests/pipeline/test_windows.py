import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cliptrase_d2.pipeline.windows import Windows, cut, stitch_correlation, stitch_patches
from tests.pipeline import reference

CPU = torch.device("cpu")
GRIDS = st.tuples(st.integers(1, 12), st.integers(1, 12))


@pytest.mark.parametrize(
    ("grid", "window", "stride", "side", "corners"),
    [
        pytest.param((4, 9), 4, 2, (4, 4), ((0, 0), (0, 2), (0, 4), (0, 5)), id="the last window ends at the border"),
        # 336×448 pixels in windows of 224 every 112, with patches of 16.
        pytest.param((21, 28), 14, 7, (14, 14), ((0, 0), (0, 7), (0, 14), (7, 0), (7, 7), (7, 14)), id="protocol"),
        pytest.param((3, 20), 14, 7, (3, 14), ((0, 0), (0, 6)), id="higher than the image"),
        pytest.param((3, 5), 14, 7, (3, 5), ((0, 0),), id="larger than the image"),
    ],
)
def test_placement(
    grid: tuple[int, int], window: int, stride: int, side: tuple[int, int], corners: tuple[tuple[int, int], ...]
) -> None:
    assert Windows.cover(grid, window, stride) == Windows(grid, side, corners)


@given(grid=GRIDS, window=st.integers(1, 8), stride=st.integers(1, 8))
def test_windows_cover_every_patch(grid: tuple[int, int], window: int, stride: int) -> None:
    windows = Windows.cover(grid, window, min(stride, window))
    assert set(windows.patch_index(CPU).flatten().tolist()) == set(range(grid[0] * grid[1]))
    assert len(set(windows.corners)) == len(windows.corners)


def test_patch_index_and_refinement_by_hand() -> None:
    windows = Windows(grid=(3, 4), window=(2, 2), corners=((0, 0), (1, 2)))
    assert windows.patch_index(CPU).tolist() == [[0, 1, 4, 5], [6, 7, 10, 11]]
    assert windows.refine(2) == Windows((6, 8), (4, 4), ((0, 0), (2, 4)))


def test_cut_returns_the_pixels_of_the_patches() -> None:
    images = torch.randn(2, 3, 12, 20)
    windows = Windows.cover((3, 5), window=2, stride=2)
    views = cut(images, windows, patch_size=4)
    assert views.shape == (2 * len(windows.corners), 3, 8, 8)
    for image in range(2):
        for index, (row, column) in enumerate(windows.corners):
            expected = images[image, :, 4 * row : 4 * row + 8, 4 * column : 4 * column + 8]
            assert torch.equal(views[image * len(windows.corners) + index], expected)
    assert torch.equal(cut(images[:, 0], windows, patch_size=4), views[:, 0])  # label maps, without channels


@given(grid=GRIDS, window=st.integers(1, 8), stride=st.integers(1, 8), seed=st.integers(0, 100))
def test_stitched_patches_are_the_mean_over_their_windows(
    grid: tuple[int, int], window: int, stride: int, seed: int
) -> None:
    windows = Windows.cover(grid, window, min(stride, window))
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2, len(windows.corners), *windows.window, 3, generator=generator)
    for image, stitched in zip(features, stitch_patches(features.flatten(2, 3), windows), strict=True):
        expected = reference.stitch(list(image), list(windows.corners), grid)
        torch.testing.assert_close(stitched.double(), expected.flatten(0, 1), atol=1e-6, rtol=1e-5)


def test_stitched_correlation_is_the_mean_over_the_windows_with_both_patches() -> None:
    windows = Windows.cover((3, 5), window=3, stride=1)
    index = windows.patch_index(CPU).tolist()
    correlation = torch.rand(2, len(index), 9, 9)
    stitched = stitch_correlation(correlation, windows)
    for image in range(2):
        for a in range(15):
            for b in range(15):
                values = [
                    correlation[image, k, patches.index(a), patches.index(b)].item()
                    for k, patches in enumerate(index)
                    if a in patches and b in patches
                ]
                expected = sum(values) / len(values) if values else 0.0
                assert stitched[image, a, b].item() == pytest.approx(expected, abs=1e-6)


def test_one_window_changes_nothing() -> None:
    windows = Windows.cover((3, 4), window=14, stride=7)
    features, correlation = torch.randn(2, 1, 12, 5), torch.rand(2, 1, 12, 12)
    assert torch.equal(stitch_patches(features, windows), features[:, 0])
    assert torch.equal(stitch_correlation(correlation, windows), correlation[:, 0])
