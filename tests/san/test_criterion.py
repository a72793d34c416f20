"""The losses that SAN is trained with, against values by hand and a plain loop."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from cliptrase_d2.san.criterion import Criterion, Prediction, Totals
from cliptrase_d2.san.matcher import LossWeights, Targets

EVERYWHERE = torch.ones(1, 8, 8, dtype=torch.bool)
NOTHING = Targets(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 8, 8, dtype=torch.bool))


def criterion(classes: int = 2, **arguments: object) -> Criterion:
    return Criterion(classes, points=64, weights=LossWeights(1.0, 1.0, 1.0), **arguments)  # type: ignore[arg-type]


def test_a_perfect_prediction_costs_nothing() -> None:
    classes = torch.tensor([[[50.0, 0, 0], [0, 0, 50.0]]])  # query 0: class 0, query 1: no object
    middle = F.pad(torch.ones(1, 4, 4, dtype=torch.bool), (2, 2, 2, 2))  # away from the border
    masks = (middle.float() * 100 - 50).expand(1, 2, 8, 8)
    losses = criterion()([Prediction(classes, masks)], [Targets(torch.tensor([0]), middle)], Totals(1, 1.1))
    assert losses["loss_ce"] < 1e-6
    opposite = criterion()([Prediction(classes, -masks)], [Targets(torch.tensor([0]), middle)], Totals(1, 1.1))
    assert losses["loss_dice"] < 0.3  # most points are at edges, where both masks are between their values
    assert opposite["loss_dice"] > 0.6


def test_the_losses_by_hand() -> None:
    # Logits of 0: each class has a third; each pixel a half. Query 0 or 1 is matched, the other is no object.
    found = criterion()(
        [Prediction(torch.zeros(1, 2, 3), torch.zeros(1, 2, 4, 4))],
        [Targets(torch.tensor([1]), EVERYWHERE)],
        criterion().totals([1], 2),
    )
    assert torch.isclose(found["loss_ce"], torch.tensor(3.0).log())  # (ln 3 + 0.1·ln 3) / 1.1
    assert torch.isclose(found["loss_mask"], torch.tensor(2.0).log())
    assert torch.isclose(found["loss_dice"], torch.tensor(1 - (2 * 32 + 1) / (32 + 64 + 1)), atol=0.03)


def test_the_class_loss_is_the_weighted_mean_of_pytorch() -> None:
    torch.manual_seed(0)
    logits, masks = torch.randn(2, 5, 4), torch.randn(2, 5, 8, 8)
    truth = [Targets(torch.tensor([2, 0]), torch.rand(2, 8, 8) > 0.5), NOTHING]
    loss = criterion(3)
    found = loss([Prediction(logits, masks)], truth, loss.totals([2, 0], 5))["loss_ce"]
    wanted = torch.full((2, 5), 3)
    matched = [(q, t) for q in range(5) for t in range(2)]
    candidates = []
    for q, t in matched:  # which query was taken is random in its points; one of all assignments must fit
        for q2, t2 in matched:
            if q != q2 and t != t2:
                trial = wanted.clone()
                trial[0, q], trial[0, q2] = truth[0].labels[t], truth[0].labels[t2]
                candidates.append(F.cross_entropy(logits.transpose(1, 2), trial, torch.tensor([1, 1, 1, 0.1])))
    assert any(torch.isclose(found, value, atol=1e-5) for value in candidates)


def test_parts_of_a_batch_add_up_to_the_batch() -> None:
    torch.manual_seed(0)
    logits, masks = torch.randn(3, 4, 3), torch.randn(3, 4, 8, 8)
    truth = [
        Targets(torch.tensor([0, 1]), torch.stack([EVERYWHERE[0], ~EVERYWHERE[0]])),
        NOTHING,
        Targets(torch.tensor([1]), EVERYWHERE),
    ]
    loss = criterion()
    totals = loss.totals([2, 0, 1], 4)
    whole = loss([Prediction(logits, masks)], truth, totals)["loss_ce"]
    parts = [
        loss([Prediction(logits[i : i + 1], masks[i : i + 1])], truth[i : i + 1], totals)["loss_ce"] for i in range(3)
    ]
    assert torch.isclose(sum(parts), whole, atol=0.02)  # type: ignore[arg-type]  # matching draws points anew


def test_blocks_before_the_last_are_counted_by_name() -> None:
    prediction = Prediction(torch.zeros(1, 2, 3), torch.zeros(1, 2, 4, 4))
    losses = criterion()([prediction] * 3, [Targets(torch.tensor([0]), EVERYWHERE)], Totals(1, 1.1))
    assert set(losses) == {f"loss_{n}{end}" for n in ("ce", "mask", "dice") for end in ("", "_0", "_1")}


def test_images_without_labels_still_train_no_object() -> None:
    logits = torch.zeros(2, 3, 3, requires_grad=True)
    masks = torch.zeros(2, 3, 4, 4, requires_grad=True)
    loss = criterion()
    losses = loss([Prediction(logits, masks)], [NOTHING, NOTHING], loss.totals([0, 0], 3))
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert losses["loss_mask"] == losses["loss_dice"] == 0
    assert torch.isclose(losses["loss_ce"], torch.tensor(3.0).log())
    assert logits.grad is not None
    assert logits.grad[..., 2].max() < 0
    assert masks.grad is not None
    assert masks.grad.abs().max() == 0


def test_a_checkpoint_of_other_weights_changes_no_loss() -> None:
    plain, loaded = criterion(), criterion()
    loaded.empty_weight.fill_(0.0)  # as a checkpoint may have it
    truth = [Targets(torch.tensor([0]), EVERYWHERE)]
    prediction = [Prediction(torch.zeros(1, 2, 3), torch.zeros(1, 2, 4, 4))]
    assert plain(prediction, truth, Totals(1, 1.1))["loss_ce"] == loaded(prediction, truth, Totals(1, 1.1))["loss_ce"]


def test_totals_count_matched_queries_fully_and_others_a_tenth() -> None:
    assert criterion().totals([2, 5], 4) == Totals(7, 6 + 0.1 * 2)  # four of the five masks find a query
    assert criterion().totals([0], 4) == Totals(1, 0.4)
