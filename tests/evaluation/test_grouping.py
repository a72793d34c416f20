"""Masks to groups, groups to classes."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch

from cliptrase_d2.evaluation.grouping import group_masks, mask_histograms, match_groups
from cliptrase_d2.utils.errors import InputError


def test_pixels_of_each_class_in_each_mask_by_hand() -> None:
    assignment = torch.tensor([[0, 0, 1], [0, 1, 1]])
    truth = torch.tensor([[2, 0, 255], [2, 1, 1]])
    # Mask 0: class 2 twice, class 0 once; mask 1: class 1 twice, one pixel ignored.
    assert mask_histograms(assignment, truth, 3, 3, 255).tolist() == [[1, 0, 2], [0, 2, 0], [0, 0, 0]]


def test_an_image_of_ignored_pixels_counts_nothing() -> None:
    assert not mask_histograms(torch.zeros(2, 2).long(), torch.full((2, 2), 255), 1, 4, 255).any()


def test_the_matching_is_the_best_of_all() -> None:
    counts = np.random.default_rng(0).integers(0, 100, (5, 5))
    best = max(sum(counts[order[group], group] for group in range(5)) for order in permutations(range(5)))
    matched = match_groups(counts)
    assert sorted(matched) == [0, 1, 2, 3, 4]
    assert counts[matched, np.arange(5)].sum() == best


def test_the_greedy_choice_is_not_the_best() -> None:
    # Group 0 likes class 0 most, but only group 0 can be class 1: 8 + 7 is more than 9 + 0.
    assert match_groups(np.array([[9, 7], [8, 0]])).tolist() == [1, 0]


def test_with_fewer_groups_some_classes_have_none() -> None:
    assert match_groups(np.array([[0, 1], [5, 0], [0, 9]])).tolist() == [1, 2]


def test_groups_are_those_of_the_directions() -> None:
    generator = np.random.default_rng(1)
    centres = np.eye(8)[:3]
    members = generator.integers(0, 3, 60)
    lengths = generator.uniform(0.1, 10, (60, 1))
    features = lengths * (centres[members] + 0.01 * generator.normal(size=(60, 8)))
    groups = group_masks(features, np.ones(60), 3, seed=0)
    assert len({(group, member) for group, member in zip(groups, members, strict=True)}) == 3


def test_the_same_seed_gives_the_same_groups() -> None:
    features = np.random.default_rng(2).normal(size=(50, 4))
    first, again = (group_masks(features, np.ones(50), 5, seed=3) for _ in range(2))
    assert first.tolist() == again.tolist()


def test_the_last_bits_of_a_feature_decide_nothing() -> None:
    features = np.random.default_rng(4).normal(size=(50, 4)).astype(np.float32)
    near = features * (1 + 1e-7)
    assert group_masks(features, np.ones(50), 5, seed=3).tolist() == group_masks(near, np.ones(50), 5, seed=3).tolist()


def test_a_mask_of_ignored_pixels_has_a_group_all_the_same() -> None:
    groups = group_masks(np.eye(4), np.array([1, 1, 1, 0]), 2, seed=0)
    assert set(groups) <= {0, 1}


def test_fewer_masks_than_groups_is_refused() -> None:
    with pytest.raises(InputError, match=r"TEST\.UNSUPERVISED_GROUPS: 5 groups for the 4 masks"):
        group_masks(np.eye(4), np.ones(4), 5, seed=0)
