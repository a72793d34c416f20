"""Masks at points, and where a mask is unsure."""

from __future__ import annotations

import torch

from cliptrase_d2.san.points import sample_points, uncertain_points

RAMP = torch.arange(4.0).expand(4, 4)  # value = column


def test_a_point_in_the_middle_of_a_pixel_has_its_value() -> None:
    points = torch.tensor([[[0.125, 0.5], [0.375, 0.6], [0.875, 0.125]]])  # columns 0, 1 and 3 of four
    assert sample_points(RAMP[None], points).tolist() == [[0, 1, 3]]


def test_between_pixels_it_is_their_mean() -> None:
    assert sample_points(RAMP[None], torch.tensor([[[0.5, 0.5]]])).tolist() == [[1.5]]


def test_at_the_border_a_half_of_it_is_nothing() -> None:
    assert sample_points(torch.ones(1, 4, 4), torch.tensor([[[0.5, 0.0], [0.0, 0.0]]])).tolist() == [[0.5, 0.25]]


def test_one_set_of_points_serves_all_masks() -> None:
    masks = torch.rand(3, 5, 7)
    points = torch.rand(1, 11, 2)
    assert torch.allclose(sample_points(masks, points), sample_points(masks, points.expand(3, -1, -1)), atol=1e-6)


def test_every_mask_can_have_its_own_points() -> None:
    masks = torch.stack([RAMP, RAMP.T])
    points = torch.tensor([[[0.875, 0.125]], [[0.875, 0.125]]])
    assert sample_points(masks, points).tolist() == [[3], [0]]


def test_most_points_are_where_the_mask_changes_sides() -> None:
    logits = torch.full((1, 32, 32), 9.0)
    logits[:, :, 16:] = -9.0  # unsure only about column 16, which is x = 0.5
    x = uncertain_points(logits, 200, oversample=3.0, importance=0.75)[0, :, 0]
    near = ((x - 0.5).abs() < 1 / 32).float()
    # 600 candidates, 1/16 of which are near: about 38 of the 150 unsure ones. Without importance it would be 12 of 200.
    assert 20 < near.sum() < 70
    assert uncertain_points(logits, 200, 3.0, 0.75).shape == (1, 200, 2)


def test_no_mask_has_no_points() -> None:
    assert uncertain_points(torch.zeros(0, 4, 4), 8, 3.0, 0.75).shape == (0, 8, 2)
