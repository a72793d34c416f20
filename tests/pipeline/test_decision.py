"""The published decision against a slow implementation and by hand."""

import pytest
import torch
from torch import Tensor

from cliptrase_d2.pipeline.decision import Decision, DecisionRule, class_probabilities, decide, vote_in_regions
from tests.pipeline.published_reference import slow_decision


def label(values: Tensor, rule: DecisionRule) -> Decision:
    return decide(lambda start, stop: values[:, start:stop].movedim(0, 1), (values.shape[1], values.shape[2]), rule)


def rule(class_index: list[int], scale: float | None = 1.0, **thresholds: float) -> DecisionRule:
    return DecisionRule(torch.tensor(class_index), max(class_index) + 1, scale, **thresholds)


@pytest.mark.parametrize("class_index", [[0, 1, 2, 3, 4, 5], [0, 0, 0, 1, 2, 2], [0, 0, 0, 0, 0, 0]], ids=str)
@pytest.mark.parametrize("area_thd", [0.0, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("prob_thd", [0.0, 0.3, 0.6, 1.0])
def test_equals_the_description(class_index: list[int], prob_thd: float, area_thd: float) -> None:
    values = torch.randn(6, 700, 131)  # several bands
    values[1] += 0.5
    own = rule(class_index, 2.0, prob_thd=prob_thd, area_thd=area_thd)
    decision = label(values, own)
    expected, shares = slow_decision(values, own.class_index, 2.0, prob_thd, area_thd)
    assert torch.equal(decision.labels, expected)
    found = class_probabilities(lambda start, stop: values[:, start:stop].movedim(0, 1), (700, 131), own, decision)
    torch.testing.assert_close(found, shares)


def test_the_best_word_of_a_class_counts_and_not_the_sum() -> None:
    values = torch.tensor([1.0, 1.0, 1.1]).view(3, 1, 1)
    assert label(values, rule([0, 0, 1])).labels.item() == 1


def test_of_equal_classes_the_lowest_index_wins() -> None:
    values = torch.tensor([0.0, 2.0, 2.0, 1.0]).view(4, 1, 1)
    assert label(values, rule([0, 1, 2, 3])).labels.item() == 1


def test_a_probability_equal_to_the_threshold_is_not_below_it() -> None:
    values = torch.tensor([0.25, 0.75]).view(2, 1, 1)
    assert label(values, rule([0, 1], None, prob_thd=0.75)).labels.item() == 1
    assert label(values, rule([0, 1], None, prob_thd=0.76)).labels.item() == 0


def test_the_pixels_of_a_removed_class_take_their_second_class() -> None:
    # Nine pixels of class 1 and one of class 2, whose second class is 1.
    shares = torch.zeros(3, 1, 10)
    shares[1], shares[2] = 0.5, 0.1
    shares[:, 0, 9] = torch.tensor([0.1, 0.2, 0.7])
    decision = label(shares, rule([0, 1, 2], None, area_thd=0.1))
    assert decision.kept.tolist() == [True, True, False]  # one of ten pixels is not more than a tenth
    assert decision.labels.tolist() == [[1] * 10]
    assert label(shares, rule([0, 1, 2], None, area_thd=0.09)).labels[0, 9] == 2
    # Its probability is that of the second class, which the threshold is compared with.
    assert label(shares, rule([0, 1, 2], None, area_thd=0.1, prob_thd=0.3)).labels.tolist() == [[1] * 9 + [0]]


def test_a_single_word() -> None:
    assert label(torch.randn(1, 3, 4), rule([0], prob_thd=0.9, area_thd=0.5)).labels.tolist() == [[0] * 4] * 3


def test_regions_take_their_most_frequent_label() -> None:
    labels = torch.tensor([[2, 2, 1, 0], [2, 1, 1, 3], [0, 3, 3, 0]])
    regions = torch.tensor([[7, 7, 7, -1], [7, -1, 4, 4], [-2, 0, 0, 0]])
    is_set = torch.zeros(3, 4, dtype=torch.bool)
    is_set[0, 3] = True  # below the threshold before the vote
    voted = vote_in_regions(Decision(labels, torch.ones(4, dtype=torch.bool), is_set), regions, 4)
    # In region 4 one pixel is 1 and one is 3: the smaller index wins.
    assert voted.labels.tolist() == [[2, 2, 2, 0], [2, 1, 1, 1], [0, 3, 3, 3]]
    assert voted.is_set.nonzero().tolist() == [[0, 2], [0, 3], [1, 3], [2, 3]]


@pytest.mark.parametrize("region", [-1, 0, 9])
def test_one_region_or_none(region: int) -> None:
    decision = Decision(torch.tensor([[1, 0, 1]]), torch.ones(2, dtype=torch.bool), torch.zeros(1, 3, dtype=torch.bool))
    voted = vote_in_regions(decision, torch.full((1, 3), region), 2)
    assert voted.labels.tolist() == [[1, 0, 1] if region < 0 else [1, 1, 1]]
