"""Masks that overlap or leave gaps, by hand."""

import pytest
import torch

from cliptrase_d2.mask_sources.hard_masks import (
    compute_boxes,
    compute_stability,
    fill_gaps,
    find_typical_points,
    make_point_grid,
    make_proposals,
    merge_masks,
)
from cliptrase_d2.pipeline.proposals import MaskProposals


def test_soft_maps_are_shares_of_the_cells() -> None:
    assignment = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1]])
    masks = make_proposals(assignment, 3, (1, 2))
    # The left cell has the pixels 0 0 / 0 1, the right one only ones.
    assert masks.coarse.tolist() == [[[0.75, 0.0]], [[0.25, 1.0]], [[0.0, 0.0]]]
    assert masks.assignment is assignment


def test_grids_finer_than_the_assignment_or_not_dividing_it() -> None:
    masks = make_proposals(torch.tensor([[0, 1], [1, 1]]), 2, (56, 56))
    assert masks.coarse.tolist() == [[[1, 0], [0, 0]], [[0, 1], [1, 1]]]
    masks = make_proposals(torch.arange(35).view(5, 7), 35, (3, 4))
    torch.testing.assert_close(masks.coarse.sum(0), torch.ones(3, 4))
    assert masks.soft_masks().shape == (35, 5, 7)


def test_typical_points_are_the_members_most_similar_to_their_cluster() -> None:
    correlation = torch.tensor(
        [
            [0.9, 0.2, 0.5, 0.0, 0.9, 0.0],  # cluster 0, most similar to patch 4, which is not a member
            [0.1, 0.4, 0.3, 0.0, 0.9, 0.0],
            [0.2, 0.0, 1.0, 0.0, 0.9, 0.0],
            [0.0, 0.0, 0.0, 1.0, 0.0, 0.0],  # cluster 1 has one patch
            [0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
            [0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        ]
    )
    labels = torch.tensor([0, 0, 0, 1, -1, -1])
    points, is_point = find_typical_points(correlation, labels, (2, 3), most=2)
    assert is_point.tolist() == [[True, True], [True, False]]
    # Means of cluster 0 are 1.2/3, 0.6/3, 1.8/3: patch 2 (row 0, column 2), then patch 0.
    torch.testing.assert_close(points[0], torch.tensor([[2.5 / 3, 0.25], [0.5 / 3, 0.25]]))
    torch.testing.assert_close(points[1, 0], torch.tensor([0.5 / 3, 0.75]))  # patch 3: row 1, column 0


def test_no_more_points_than_patches() -> None:
    points, is_point = find_typical_points(torch.eye(2), torch.tensor([0, 0]), (1, 2), most=3)
    assert points.shape == (1, 2, 2)
    assert is_point.all()


def test_boxes_contain_all_pixels() -> None:
    assignment = torch.tensor([[0, 0, 0, 0], [0, 2, 0, 2]])
    boxes = compute_boxes(torch.stack([assignment == 0, assignment == 2]))
    assert boxes.tolist() == [[0, 0, 1, 1], [0.25, 0.5, 1.0, 1.0]]  # left, top, right, bottom


def test_stability_is_the_share_above_a_stricter_threshold() -> None:
    logits = torch.tensor([[[2.0, 2.0], [0.5, -3.0]], [[-5.0, -5.0], [-5.0, -5.0]], [[9.0, -9.0], [9.0, 9.0]]])
    torch.testing.assert_close(compute_stability(logits), torch.tensor([2 / 3, 0.0, 1.0]))


def test_grid_points_are_the_centres_of_their_cells() -> None:
    assert make_point_grid(2).tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    assert make_point_grid(1).tolist() == [[0.5, 0.5]]


@pytest.mark.parametrize(
    ("assignment", "clusters", "count", "expected"),
    [
        # Mask 1 and cluster 0 have no pixel left, so the result leaves them out.
        pytest.param([[0, 0, -1], [2, -1, -1]], [[0, 0, 1], [0, 2, 1]], 3, [[0, 0, 2], [1, 3, 2]], id="clusters"),
        pytest.param([[0, -1], [-1, 1]], [[0, 0], [0, 0]], 0, [[0, 2], [2, 1]], id="one remainder"),
        pytest.param([[-1, -1, -1]], [[1, 0, 1]], 2, [[1, 0, 1]], id="no masks"),
    ],
)
def test_gaps_are_filled(
    assignment: list[list[int]], clusters: list[list[int]], count: int, expected: list[list[int]]
) -> None:
    proposals = MaskProposals(torch.zeros(count, 1, 1), torch.tensor(clusters))
    filled, masks = fill_gaps(torch.tensor(assignment), proposals)
    assert filled.tolist() == expected
    assert masks == filled.max() + 1


def test_masks_are_merged_by_the_containment_of_their_logits() -> None:
    # A row sums to 9, 5 and -2. The minimum of the first two sums to 2 + 2 + 0.5 - 1 = 3.5, which is 0.7 of 5. The last
    # mask lies in the first, but its sum is negative.
    logits = torch.tensor([[[3.0, 3.0, 0.5, 2.5]], [[2.0, 2.0, 2.0, -1.0]], [[1.0, 1.0, -2.0, -2.0]]]).repeat(1, 2, 1)
    assert merge_masks(logits, logits, 0.75).tolist() == logits.tolist()
    logits[0, :, 2] = 0.0  # 3 of 5
    merged = merge_masks(logits, logits, 0.5)
    assert merged.tolist() == [[[3.0, 3.0, 2.0, 2.5]] * 2, [[1.0, 1.0, -2.0, -2.0]] * 2]


def test_no_masks_are_merged_into_none() -> None:
    assert merge_masks(torch.zeros(0, 2, 2), torch.zeros(0, 2, 2), 0.5).shape == (0, 2, 2)
