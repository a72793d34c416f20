"""Losses, matching costs and point sampling, against values by hand and plain loops."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from cliptrase_d2.san.criterion import (
    Criterion,
    LossNormalizers,
    LossWeights,
    Prediction,
    Targets,
    cross_entropy_cost,
    dice_cost,
    match,
    sample_points,
    sample_uncertain_points,
)

FULL = torch.ones(1, 8, 8, dtype=torch.bool)
LEFT, TOP = torch.zeros(2, 8, 8, dtype=torch.bool)
LEFT[:, :4] = TOP[:4] = True
UNLABELLED = Targets(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 8, 8, dtype=torch.bool))
ONE_MASK = LossNormalizers(1, 1.1)  # of two queries
RAMP = torch.arange(4.0).expand(4, 4)  # value = column


def criterion(classes: int = 2) -> Criterion:
    return Criterion(classes, points=64, weights=LossWeights(1.0, 1.0, 1.0))


def test_losses_by_hand() -> None:
    # Logits of 0: each class has probability 1/3, each pixel 1/2. One query is matched, the other is "no object".
    losses = criterion()(
        [Prediction(torch.zeros(1, 2, 3), torch.zeros(1, 2, 4, 4))],
        [Targets(torch.tensor([1]), FULL)],
        criterion().compute_normalizers([1], 2),
    )
    assert torch.isclose(losses["loss_ce"], torch.tensor(3.0).log())  # (ln 3 + 0.1·ln 3) / 1.1
    assert torch.isclose(losses["loss_mask"], torch.tensor(2.0).log())
    assert torch.isclose(losses["loss_dice"], torch.tensor(1 - (2 * 32 + 1) / (32 + 64 + 1)), atol=0.03)


def test_class_loss_is_the_weighted_mean_of_pytorch() -> None:
    torch.manual_seed(0)
    logits, masks = torch.randn(2, 5, 4), torch.randn(2, 5, 8, 8)
    targets = [Targets(torch.tensor([2, 0]), torch.rand(2, 8, 8) > 0.5), UNLABELLED]
    loss = criterion(3)
    result = loss([Prediction(logits, masks)], targets, loss.compute_normalizers([2, 0], 5))["loss_ce"]
    candidates = []
    for queries in itertools.permutations(range(5), 2):  # the points and thus the match are random: try each
        labels = torch.full((2, 5), 3)
        labels[0, list(queries)] = targets[0].labels
        candidates.append(F.cross_entropy(logits.transpose(1, 2), labels, torch.tensor([1, 1, 1, 0.1])))
    assert any(torch.isclose(result, value, atol=1e-5) for value in candidates)


def test_losses_of_parts_add_up_to_the_batch() -> None:
    torch.manual_seed(0)
    logits, masks = torch.randn(3, 4, 3), torch.randn(3, 4, 8, 8)
    both = Targets(torch.tensor([0, 1]), torch.cat([FULL, ~FULL]))
    targets = [both, UNLABELLED, Targets(torch.tensor([1]), FULL)]
    loss = criterion()
    normalizers = loss.compute_normalizers([2, 0, 1], 4)
    full = loss([Prediction(logits, masks)], targets, normalizers)["loss_ce"]
    parts = [
        loss([Prediction(logits[i : i + 1], masks[i : i + 1])], targets[i : i + 1], normalizers)["loss_ce"]
        for i in range(3)
    ]
    assert torch.isclose(sum(parts), full, atol=0.02)  # type: ignore[arg-type]  # matching draws other points


def test_unlabelled_images_train_only_no_object() -> None:
    logits = torch.zeros(2, 3, 3, requires_grad=True)
    masks = torch.zeros(2, 3, 4, 4, requires_grad=True)
    loss = criterion()
    losses = loss([Prediction(logits, masks)], [UNLABELLED] * 2, loss.compute_normalizers([0, 0], 3))
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert losses["loss_mask"] == losses["loss_dice"] == 0
    assert torch.isclose(losses["loss_ce"], torch.tensor(3.0).log())
    assert logits.grad is not None
    assert logits.grad[..., 2].max() < 0
    assert masks.grad is not None
    assert masks.grad.abs().max() == 0


def test_class_weights_of_a_checkpoint_do_not_change_the_loss() -> None:
    loaded = criterion()
    loaded.empty_weight.fill_(0.0)
    prediction, target = Prediction(torch.zeros(1, 2, 3), torch.zeros(1, 2, 4, 4)), Targets(torch.tensor([0]), FULL)
    plain, other = (loss([prediction], [target], ONE_MASK)["loss_ce"] for loss in (criterion(), loaded))
    assert plain == other


def test_normalizers_count_unmatched_queries_as_a_tenth() -> None:
    assert criterion().compute_normalizers([2, 5], 4) == LossNormalizers(7, 6 + 0.1 * 2)  # four of five masks match
    assert criterion().compute_normalizers([0], 4) == LossNormalizers(1, 0.4)


def test_cross_entropy_cost_equals_pytorch() -> None:
    logits, truth = torch.randn(3, 10), torch.randint(0, 2, (2, 10)).float()
    expected = [[F.binary_cross_entropy_with_logits(q, t).item() for t in truth] for q in logits]
    assert torch.allclose(cross_entropy_cost(logits, truth), torch.tensor(expected), atol=1e-6)


def test_dice_cost_by_hand() -> None:
    # Probabilities 1, 1, 0, 0 against 1, 0, 0, 0: 2·1 + 1 over 2 + 1 + 1.
    logits, truth = torch.tensor([[99.0, 99, -99, -99]]), torch.tensor([[1.0, 0, 0, 0]])
    assert torch.allclose(dice_cost(logits, truth), torch.tensor([[1 - 3 / 4]]))


def test_masks_match_the_queries_that_resemble_them() -> None:
    logits = torch.stack([TOP, ~LEFT, LEFT]).float() * 20 - 10
    targets = Targets(torch.tensor([0, 1]), torch.stack([LEFT, ~LEFT]))
    queries, masks = match(torch.zeros(3, 3), logits, targets, LossWeights(), points=256)
    assert dict(zip(masks.tolist(), queries.tolist(), strict=True)) == {0: 2, 1: 1}


def test_match_has_the_lowest_cost_of_all_assignments() -> None:
    torch.manual_seed(3)
    logits = torch.cat([torch.rand(4, 3).log(), torch.zeros(4, 1)], dim=1)
    targets = Targets(torch.arange(3), torch.ones(3, 4, 4, dtype=torch.bool))  # equal masks: only classes matter
    queries, masks = match(logits, torch.zeros(4, 4, 4), targets, LossWeights(1.0, 0.0, 0.0), points=4)
    shares = logits.softmax(-1)
    best = max(sum(shares[q, t] for t, q in enumerate(chosen)) for chosen in itertools.permutations(range(4), 3))
    assert torch.isclose(shares[queries, masks].sum(), torch.as_tensor(best))


def test_nan_predictions_are_matched() -> None:  # the trainer reports the NaN of their loss
    targets = Targets(torch.tensor([0]), LEFT[None])
    queries, _ = match(torch.full((2, 4), float("nan")), torch.randn(2, 8, 8), targets, LossWeights(), points=32)
    assert len(queries) == 1


@pytest.mark.parametrize(
    ("targets", "count"), [(Targets(torch.arange(3), torch.stack([LEFT, ~LEFT, TOP])), 2), (UNLABELLED, 0)]
)
def test_number_of_matches_is_the_smaller_of_queries_and_masks(targets: Targets, count: int) -> None:
    queries, masks = match(torch.zeros(2, 4), torch.randn(2, 8, 8), targets, LossWeights(), points=32)
    assert len(queries) == len(masks) == count


@pytest.mark.parametrize(
    ("maps", "points", "values"),
    [
        (RAMP, [[0.125, 0.5], [0.375, 0.6], [0.875, 0.125]], [0, 1, 3]),  # centres of columns 0, 1 and 3 of four
        (RAMP, [[0.5, 0.5]], [1.5]),  # between two pixels
        (torch.ones(4, 4), [[0.5, 0.0], [0.0, 0.0]], [0.5, 0.25]),  # at the border half of the pixel is outside
    ],
)
def test_points_are_read_bilinearly(maps: torch.Tensor, points: list[list[float]], values: list[float]) -> None:
    assert sample_points(maps[None], torch.tensor([points])).tolist() == [values]


def test_points_are_shared_or_separate_per_map() -> None:
    maps, points = torch.rand(3, 5, 7), torch.rand(1, 11, 2)
    assert torch.allclose(sample_points(maps, points), sample_points(maps, points.expand(3, -1, -1)), atol=1e-6)
    separate = torch.tensor([[[0.875, 0.125]], [[0.125, 0.125]]])
    assert sample_points(torch.stack([RAMP, RAMP]), separate).tolist() == [[3], [0]]


def test_uncertain_points_concentrate_at_the_edge() -> None:
    logits = torch.full((1, 32, 32), 9.0)
    logits[:, :, 16:] = -9.0  # uncertain only at column 16, x = 0.5
    points = sample_uncertain_points(logits, 200, oversample=3.0, importance=0.75)
    near = ((points[0, :, 0] - 0.5).abs() < 1 / 32).sum()
    assert points.shape == (1, 200, 2)
    # Of 600 candidates 1/16 are near, about 38, and all are chosen. Uniform points would have 12.
    assert 20 < near < 70
    assert sample_uncertain_points(torch.zeros(0, 4, 4), 8, 3.0, 0.75).shape == (0, 8, 2)
