"""Masks that overlap or leave gaps, by hand."""

from __future__ import annotations

import torch

from cliptrase_d2.mask_sources.hard_masks import (
    compute_boxes,
    fill_gaps,
    make_proposals,
    point_grid,
    stability,
    typical_points,
)
from cliptrase_d2.pipeline.proposals import MaskProposals


def test_soft_maps_are_shares_of_the_cells() -> None:
    assignment = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1]])
    masks = make_proposals(assignment, 3, (1, 2))
    # The left cell has the pixels 0 0 / 0 1, the right one only ones.
    assert masks.coarse.tolist() == [[[0.75, 0.0]], [[0.25, 1.0]], [[0.0, 0.0]]]
    assert masks.assignment is assignment


def test_soft_maps_are_no_finer_than_the_assignment() -> None:
    masks = make_proposals(torch.tensor([[0, 1], [1, 1]]), 2, (56, 56))
    assert masks.coarse.tolist() == [[[1, 0], [0, 0]], [[0, 1], [1, 1]]]


def test_cells_that_do_not_divide_the_pixels_share_them_out() -> None:
    masks = make_proposals(torch.arange(35).view(5, 7), 35, (3, 4))
    assert torch.allclose(masks.coarse.sum(0), torch.ones(3, 4))
    assert masks.soft_masks().shape == (35, 5, 7)


def test_typical_points_are_the_members_that_the_cluster_likes_most() -> None:
    correlation = torch.tensor(
        [
            [0.9, 0.2, 0.5, 0.0, 0.9, 0.0],  # cluster 0: its mean likes patch 4 most, which is no member
            [0.1, 0.4, 0.3, 0.0, 0.9, 0.0],
            [0.2, 0.0, 1.0, 0.0, 0.9, 0.0],
            [0.0, 0.0, 0.0, 1.0, 0.0, 0.0],  # cluster 1 has one patch
            [0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
            [0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        ]
    )
    labels = torch.tensor([0, 0, 0, 1, -1, -1])
    points, is_point = typical_points(correlation, labels, (2, 3), most=2)
    assert is_point.tolist() == [[True, True], [True, False]]
    # Means of cluster 0: 1.2/3, 0.6/3, 1.8/3; so patch 2 (row 0, column 2), then patch 0.
    torch.testing.assert_close(points[0], torch.tensor([[2.5 / 3, 0.25], [0.5 / 3, 0.25]]))
    torch.testing.assert_close(points[1, 0], torch.tensor([0.5 / 3, 0.75]))  # patch 3: row 1, column 0


def test_more_points_than_patches_are_asked_for() -> None:
    points, is_point = typical_points(torch.eye(2), torch.tensor([0, 0]), (1, 2), most=3)
    assert points.shape == (1, 2, 2)
    assert is_point.all()


def test_boxes_reach_around_all_pixels() -> None:
    assignment = torch.tensor([[0, 0, 0, 0], [0, 2, 0, 2]])
    left, top, right, bottom = compute_boxes(assignment, 3)[2].tolist()
    assert (left, top, right, bottom) == (0.25, 0.5, 1.0, 1.0)
    assert compute_boxes(assignment, 3)[0].tolist() == [0, 0, 1, 1]
    assert compute_boxes(assignment, 3)[1].isnan().all()


def test_stability_is_the_share_that_a_stricter_threshold_leaves() -> None:
    logits = torch.tensor([[[2.0, 2.0], [0.5, -3.0]], [[-5.0, -5.0], [-5.0, -5.0]], [[9.0, -9.0], [9.0, 9.0]]])
    torch.testing.assert_close(stability(logits), torch.tensor([2 / 3, 0.0, 1.0]))


def test_a_grid_of_points_lies_in_the_middle_of_its_cells() -> None:
    assert point_grid(2).tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    assert point_grid(1).tolist() == [[0.5, 0.5]]


def _clusters(assignment: list[list[int]], count: int) -> MaskProposals:
    return MaskProposals(torch.zeros(count, 1, 1), torch.tensor(assignment))


def test_gaps_fall_to_the_clusters_after_the_masks() -> None:
    # Mask 1 is all covered, and cluster 0 has no pixel left: neither is a mask of the result.
    painted = torch.tensor([[0, 0, -1], [2, -1, -1]])
    filled, count = fill_gaps(painted, _clusters([[0, 0, 1], [0, 2, 1]], 3))
    assert filled.tolist() == [[0, 0, 2], [1, 3, 2]]
    assert count == 4


def test_gaps_are_one_rest_where_there_is_no_cluster() -> None:
    filled, count = fill_gaps(torch.tensor([[0, -1], [-1, 1]]), _clusters([[0, 0], [0, 0]], 0))
    assert filled.tolist() == [[0, 2], [2, 1]]
    assert count == 3


def test_without_a_mask_the_clusters_stay() -> None:
    filled, count = fill_gaps(torch.full((1, 3), -1), _clusters([[1, 0, 1]], 2))
    assert filled.tolist() == [[1, 0, 1]]
    assert count == 2
