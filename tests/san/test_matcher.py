"""Queries that answer for true masks."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F

from cliptrase_d2.san.matcher import LossWeights, Targets, cross_entropy_cost, dice_cost, match


def half(side: str) -> torch.Tensor:
    """A true mask of 8x8 pixels: one half of them."""
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[{"left": (slice(None), slice(0, 4)), "right": (slice(None), slice(4, 8)), "top": slice(0, 4)}[side]] = True
    return mask


def test_the_cross_entropy_of_a_pair_is_pytorchs() -> None:
    logits, truth = torch.randn(3, 10), torch.randint(0, 2, (2, 10)).float()
    expected = [[F.binary_cross_entropy_with_logits(q, t).item() for t in truth] for q in logits]
    assert torch.allclose(cross_entropy_cost(logits, truth), torch.tensor(expected), atol=1e-6)


def test_the_dice_cost_by_hand() -> None:
    # Shares 1, 1, 0, 0 against 1, 0, 0, 0: 2·1 + 1 over 2 + 1 + 1.
    logits, truth = torch.tensor([[99.0, 99, -99, -99]]), torch.tensor([[1.0, 0, 0, 0]])
    assert torch.allclose(dice_cost(logits, truth), torch.tensor([[1 - 3 / 4]]))


def test_masks_find_the_queries_that_show_them() -> None:
    shown = torch.stack([half("top"), half("right"), half("left")]).float() * 20 - 10
    truth = Targets(torch.tensor([0, 1]), torch.stack([half("left"), half("right")]))
    queries, masks = match(torch.zeros(3, 3), shown, truth, LossWeights(), points=256)
    assert dict(zip(masks.tolist(), queries.tolist(), strict=True)) == {0: 2, 1: 1}


def test_the_class_decides_between_equal_masks() -> None:
    shown = half("left").expand(2, 8, 8).float()
    logits = torch.tensor([[0.0, 5, 0], [5, 0, 0]])
    truth = Targets(torch.tensor([0]), half("left")[None])
    assert match(logits, shown, truth, LossWeights(), points=64)[0].tolist() == [1]


def test_no_other_assignment_costs_less() -> None:
    torch.manual_seed(3)
    cost = torch.rand(4, 3)
    # Every mask is everywhere, so classes alone decide: class 0 to 2 for mask 0 to 2, with shares that are the costs.
    logits = (1 - cost).log()
    logits = torch.cat([logits, torch.zeros(4, 1)], dim=1)
    truth = Targets(torch.arange(3), torch.ones(3, 4, 4, dtype=torch.bool))
    queries, masks = match(logits, torch.zeros(4, 4, 4), truth, LossWeights(1.0, 0.0, 0.0), points=4)
    shares = logits.softmax(-1)
    found = shares[queries, masks].sum()
    best = max(sum(shares[q, t] for t, q in enumerate(chosen)) for chosen in itertools.permutations(range(4), 3))
    assert torch.isclose(found, torch.as_tensor(best))


def test_what_is_no_number_still_matches_so_that_its_loss_can_say_so() -> None:
    truth = Targets(torch.tensor([0]), half("left")[None])
    queries, _ = match(torch.full((2, 4), float("nan")), torch.randn(2, 8, 8), truth, LossWeights(), points=32)
    assert len(queries) == 1


def test_more_masks_than_queries_leave_some_alone() -> None:
    truth = Targets(torch.arange(3), torch.stack([half("left"), half("right"), half("top")]))
    queries, masks = match(torch.zeros(2, 4), torch.randn(2, 8, 8), truth, LossWeights(), points=32)
    assert len(queries) == len(masks) == 2


def test_an_image_without_labels_matches_nothing() -> None:
    nothing = Targets(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 8, 8, dtype=torch.bool))
    queries, masks = match(torch.zeros(2, 4), torch.randn(2, 8, 8), nothing, LossWeights(), points=32)
    assert len(queries) == len(masks) == 0
