import math

import pytest
import torch
from torch import Tensor

from cliptrase_d2.clip import pos_embed
from cliptrase_d2.clip.pos_embed import (
    RESIZE_MODES,
    ResizedPositions,
    position_embedding_by_products,
    resize_position_embedding,
)
from cliptrase_d2.utils.errors import InputError


def cubic(t: float, a: float = -0.75) -> float:
    """Evaluate Keys' cubic kernel with PyTorch's a."""
    t = abs(t)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0


def resize_axis(values: Tensor, count: int, step: float) -> Tensor:
    """Resample the first axis at (i + 0.5)·step - 0.5 with clamped borders, in plain loops."""
    out = []
    for i in range(count):
        centre = (i + 0.5) * step - 0.5
        first = math.floor(centre)
        taps = range(first - 1, first + 3)
        out.append(sum(cubic(centre - tap) * values[min(max(tap, 0), len(values) - 1)] for tap in taps))
    return torch.stack(out)


def reference(embedding: Tensor, trained: tuple[int, int], grid: tuple[int, int], extra: float) -> Tensor:
    patches = embedding[1:].double().reshape(*trained, -1)
    rows = resize_axis(patches, grid[0], trained[0] / (grid[0] + extra))
    columns = resize_axis(rows.transpose(0, 1), grid[1], trained[1] / (grid[1] + extra)).transpose(0, 1)
    return torch.cat([embedding[:1], columns.flatten(0, 1).float()])


@pytest.mark.parametrize("grid", [(21, 21), (7, 30), (4, 5), (1, 1), (40, 14)])
@pytest.mark.parametrize(("mode", "extra"), [("scale_factor", 0.1), ("output_size", 0.0)])
def test_resize_equals_plain_loops(grid: tuple[int, int], mode: str, extra: float) -> None:
    embedding = torch.randn(1 + 14 * 14, 3, generator=torch.Generator().manual_seed(0))
    resized = resize_position_embedding(embedding, (14, 14), grid, mode)
    assert resized.shape == (1 + grid[0] * grid[1], 3)
    torch.testing.assert_close(resized, reference(embedding, (14, 14), grid, extra), atol=2e-5, rtol=1e-5)


def test_class_row_and_trained_grid_are_unchanged() -> None:
    embedding = torch.randn(1 + 4 * 6, 3)
    assert torch.equal(resize_position_embedding(embedding, (4, 6), (6, 3), "scale_factor")[0], embedding[0])
    assert resize_position_embedding(embedding, (4, 6), (4, 6), "scale_factor") is embedding


def test_transposed_grid_of_equal_size_is_resized() -> None:
    embedding = torch.randn(1 + 4 * 6, 3)
    resized = resize_position_embedding(embedding, (4, 6), (6, 4), "output_size")
    assert resized.shape == embedding.shape
    assert not torch.allclose(resized, embedding)


def test_every_grid_has_its_exact_size() -> None:
    embedding = torch.randn(1 + 14 * 14, 1)
    for side in range(1, 130):
        assert len(resize_position_embedding(embedding, (14, 14), (side, 5), "scale_factor")) == 1 + 5 * side


@torch.no_grad()
def test_cached_grid_is_not_resized_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pos_embed, "_MAX_GRIDS", 2)
    positions, embedding = ResizedPositions((4, 6), "output_size"), torch.nn.Parameter(torch.randn(25, 3))
    assert positions(embedding, (4, 6)) is embedding
    oldest, latest = positions(embedding, (5, 5)), positions(embedding, (2, 2))
    assert torch.equal(oldest, resize_position_embedding(embedding, (4, 6), (5, 5), "output_size"))
    assert positions(embedding, (5, 5)) is oldest
    positions(embedding, (3, 3))
    assert positions(embedding, (2, 2)) is latest
    assert positions(embedding, (5, 5)) is not oldest, "the cache holds two grids"


@torch.no_grad()
@pytest.mark.parametrize("change", ["in_place", "behind_autograd", "replaced", "another_type"])
def test_cache_follows_changed_weights(change: str) -> None:
    positions, embedding = ResizedPositions((4, 6), "output_size"), torch.nn.Parameter(torch.randn(25, 3))
    grids = ((5, 5), (2, 9))
    for grid in grids:
        positions(embedding, grid)
    if change == "in_place":
        embedding.add_(1)
    elif change == "behind_autograd":
        embedding.data[7, 1] += 1
    else:
        embedding = torch.randn(25, 3) if change == "replaced" else embedding.double()
    for grid in grids:
        expected = resize_position_embedding(embedding, (4, 6), grid, "output_size")
        assert torch.equal(positions(embedding, grid), expected)


def test_trainable_embedding_gets_its_gradient_after_an_evaluation() -> None:
    positions, embedding = ResizedPositions((4, 6), "output_size"), torch.nn.Parameter(torch.randn(25, 3))
    with torch.inference_mode():
        positions(embedding, (5, 5))
    positions(embedding, (5, 5)).square().sum().backward()
    assert embedding.grad is not None
    assert (embedding.grad != 0).any(1).all()


def test_embedding_cached_in_inference_mode_works_in_a_training() -> None:
    positions, embedding = ResizedPositions((4, 6), "output_size"), torch.randn(25, 3)
    with torch.inference_mode():
        positions(embedding, (5, 5))
    weights = torch.ones(26, 3, requires_grad=True)
    (weights * positions(embedding, (5, 5))).sum().backward()
    assert torch.equal(weights.grad, positions(embedding, (5, 5)))


@pytest.mark.parametrize("grid", [(21, 21), (7, 30), (4, 5), (1, 1), (40, 12), (14, 12), (12, 14)])
@pytest.mark.parametrize("mode", RESIZE_MODES)
def test_matrix_products_give_the_same_embedding(grid: tuple[int, int], mode: str) -> None:
    embedding = torch.randn(1 + 14 * 12, 3, generator=torch.Generator().manual_seed(0))
    resized = position_embedding_by_products(embedding, (14, 12), grid, mode)
    expected = resize_position_embedding(embedding, (14, 12), grid, mode)
    torch.testing.assert_close(resized, expected, atol=2e-5, rtol=1e-5)


def test_unknown_mode_is_rejected() -> None:
    with pytest.raises(InputError, match=r"mode: 'bilinear'.*'scale_factor' or 'output_size'"):
        resize_position_embedding(torch.zeros(5, 2), (2, 2), (3, 3), "bilinear")
