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
    """Keys' cubic kernel with torch's a."""
    t = abs(t)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0


def resize_axis(values: Tensor, count: int, step: float) -> Tensor:
    """Resample the first axis at (i + 0.5)·step - 0.5 with clamped borders, by plain loops."""
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


def test_class_row_is_untouched() -> None:
    embedding = torch.randn(1 + 4 * 4, 3)
    assert torch.equal(resize_position_embedding(embedding, (4, 4), (6, 3), "scale_factor")[0], embedding[0])


def test_trained_grid_is_untouched() -> None:
    embedding = torch.randn(1 + 4 * 6, 3)
    assert resize_position_embedding(embedding, (4, 6), (4, 6), "scale_factor") is embedding


def test_transposed_grid_of_as_many_patches_is_resized() -> None:
    embedding = torch.randn(1 + 4 * 6, 3)
    resized = resize_position_embedding(embedding, (4, 6), (6, 4), "output_size")
    assert resized.shape == embedding.shape
    assert not torch.allclose(resized, embedding)


def test_every_grid_comes_out_as_asked() -> None:
    embedding = torch.randn(1 + 14 * 14, 1)
    for side in range(1, 130):
        assert len(resize_position_embedding(embedding, (14, 14), (side, 5), "scale_factor")) == 1 + 5 * side


@torch.no_grad()
def test_a_grid_seen_before_is_not_resized_again() -> None:
    positions, embedding = ResizedPositions((4, 6), "output_size"), torch.nn.Parameter(torch.randn(25, 3))
    first = positions(embedding, (5, 5))
    assert torch.equal(first, resize_position_embedding(embedding, (4, 6), (5, 5), "output_size"))
    assert positions(embedding, (5, 5)) is first
    assert positions(embedding, (4, 6)) is embedding


@torch.no_grad()
@pytest.mark.parametrize("change", ["in_place", "behind_autograd", "replaced", "another_type"])
def test_what_is_remembered_is_never_that_of_other_weights(change: str) -> None:
    positions, embedding = ResizedPositions((4, 6), "output_size"), torch.nn.Parameter(torch.randn(25, 3))
    for grid in ((5, 5), (2, 9)):
        positions(embedding, grid)
    if change == "in_place":
        embedding.add_(1)
    elif change == "behind_autograd":
        embedding.data[7, 1] += 1
    else:
        embedding = torch.randn(25, 3) if change == "replaced" else embedding.double()
    for grid in ((5, 5), (2, 9)):
        assert torch.equal(
            positions(embedding, grid), resize_position_embedding(embedding, (4, 6), grid, "output_size")
        )


def test_an_embedding_that_learns_gets_its_gradient_also_after_an_evaluation() -> None:
    positions, embedding = ResizedPositions((4, 6), "output_size"), torch.nn.Parameter(torch.randn(25, 3))
    with torch.inference_mode():
        positions(embedding, (5, 5))
    positions(embedding, (5, 5)).square().sum().backward()
    assert embedding.grad is not None
    assert (embedding.grad != 0).any(1).all()


def test_a_frozen_embedding_seen_in_inference_mode_serves_a_training_afterwards() -> None:
    positions, embedding = ResizedPositions((4, 6), "output_size"), torch.randn(25, 3)
    with torch.inference_mode():
        positions(embedding, (5, 5))
    weights = torch.ones(26, 3, requires_grad=True)
    (weights * positions(embedding, (5, 5))).sum().backward()
    assert torch.equal(weights.grad, positions(embedding, (5, 5)))


@torch.no_grad()
def test_few_grids_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pos_embed, "_MOST_GRIDS", 2)
    positions, embedding = ResizedPositions((4, 6), "output_size"), torch.randn(25, 3)
    oldest, last = positions(embedding, (1, 1)), positions(embedding, (2, 2))
    positions(embedding, (3, 3))
    assert positions(embedding, (2, 2)) is last
    assert positions(embedding, (1, 1)) is not oldest


@pytest.mark.parametrize("grid", [(21, 21), (7, 30), (4, 5), (1, 1), (40, 12), (14, 12), (12, 14)])
@pytest.mark.parametrize("mode", RESIZE_MODES)
def test_matrix_products_resize_the_same(grid: tuple[int, int], mode: str) -> None:
    embedding = torch.randn(1 + 14 * 12, 3, generator=torch.Generator().manual_seed(0))
    resized = position_embedding_by_products(embedding, (14, 12), grid, mode)
    torch.testing.assert_close(
        resized, resize_position_embedding(embedding, (14, 12), grid, mode), atol=2e-5, rtol=1e-5
    )


def test_unknown_mode_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="scale_factor, output_size"):
        resize_position_embedding(torch.zeros(5, 2), (2, 2), (3, 3), "bilinear")
