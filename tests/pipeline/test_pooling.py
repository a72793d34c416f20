from __future__ import annotations

import pytest
import torch

from cliptrase_d2.pipeline.pooling import mask_average_pooling
from tests.pipeline import reference


def test_soft_masks_weigh_the_features() -> None:
    masks, features = torch.rand(4, 15), torch.randn(15, 6)
    found = mask_average_pooling(masks, features)
    torch.testing.assert_close(found.double(), reference.mask_average_pooling(masks, features), atol=1e-6, rtol=1e-5)


def test_by_hand() -> None:
    # (1·2 + 3·6) / 4 = 5.
    assert mask_average_pooling(torch.tensor([[1.0, 3.0]]), torch.tensor([[2.0], [6.0]])).tolist() == [[5.0]]


def test_a_non_square_grid_equals_its_patches_in_a_row() -> None:
    masks, features = torch.rand(3, 4, 5), torch.randn(4, 5, 6)
    found = mask_average_pooling(masks, features)
    torch.testing.assert_close(found, mask_average_pooling(masks.flatten(1), features.flatten(0, 1)))


def test_a_binary_mask_is_the_plain_mean() -> None:
    features = torch.randn(4, 5, 6)
    mask = torch.rand(1, 4, 5) > 0.5
    torch.testing.assert_close(mask_average_pooling(mask, features)[0], features[mask[0]].mean(0))


def test_weights_that_sum_to_little_still_give_the_mean() -> None:
    masks, features = torch.rand(2, 15), torch.randn(15, 6)
    torch.testing.assert_close(mask_average_pooling(1e-6 * masks, features), mask_average_pooling(masks, features))


def test_an_empty_mask_gives_the_zero_vector() -> None:
    masks = torch.zeros(2, 3)
    masks[1] = 1
    found = mask_average_pooling(masks, torch.ones(3, 4))
    assert found.tolist() == [[0.0] * 4, [1.0] * 4]


def test_no_masks() -> None:
    assert mask_average_pooling(torch.zeros(0, 2, 3), torch.ones(2, 3, 4)).shape == (0, 4)


def test_masks_of_other_positions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3, 2\).*\(2, 3\)"):
        mask_average_pooling(torch.ones(1, 3, 2), torch.ones(2, 3, 4))
