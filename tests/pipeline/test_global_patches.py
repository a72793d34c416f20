"""Measures of global patches on hand-made maps."""

import math

import pytest
import torch
from torch import Tensor

from cliptrase_d2.pipeline.global_patches import global_patches, mean_attention, received_shares

PATCHES = 20


def one_global_column(share: float) -> Tensor:
    """Every patch gives `share` to patch 7 and the rest equally to the others, [1,20,20]."""
    weights = torch.full((1, PATCHES, PATCHES), (1 - share) / (PATCHES - 1))
    weights[:, :, 7] = share
    return weights


@pytest.mark.parametrize("weights", [torch.full((1, 20, 20), 0.3), torch.eye(20)[None], torch.zeros(1, 20, 20)])
def test_uniform_maps(weights: Tensor) -> None:
    received = received_shares(weights)
    torch.testing.assert_close(received, torch.full((1, PATCHES), 1 / PATCHES))
    assert not global_patches(received).any()


def test_one_global_column() -> None:
    received = received_shares(torch.cat([one_global_column(0.4), torch.zeros(1, PATCHES, PATCHES)]))
    assert global_patches(received).nonzero().tolist() == [[0, 7]]
    # 0.4 is eight times the uniform 0.05.
    assert global_patches(received, factor=7.9).any(1).tolist() == [True, False]
    assert not global_patches(received, factor=8.1).any()


def test_all_rows_count_the_same_whatever_their_weight() -> None:
    weights = one_global_column(0.4)
    scaled = weights * torch.linspace(0.1, 50, PATCHES)[None, :, None]
    torch.testing.assert_close(received_shares(scaled), received_shares(weights))


def test_negative_weights_count_as_zero_and_empty_rows_are_left_out() -> None:
    weights = torch.tensor([[[3.0, 1.0, -5.0], [0.0, -1.0, 0.0], [0.0, 1.0, 0.0]]])
    # Rows 0 and 2 have the shares (3/4, 1/4, 0) and (0, 1, 0).
    torch.testing.assert_close(received_shares(weights), torch.tensor([[3 / 8, 5 / 8, 0.0]]))


def test_attention_is_the_mean_softmax_over_heads() -> None:
    query, key = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 4)
    attention = mean_attention(query, key)
    for image in range(2):
        for token in range(5):
            expected = torch.zeros(5)
            for head in range(3):
                logits = [float(query[image, head, token] @ key[image, head, other]) / 2 for other in range(5)]  # √4
                powers = torch.tensor([math.exp(logit) for logit in logits])
                expected += powers / powers.sum() / 3
            torch.testing.assert_close(attention[image, token], expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(attention, mean_attention(query, key))
