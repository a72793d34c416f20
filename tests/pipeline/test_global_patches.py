"""The numbers of global patches on maps that are made by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cliptrase_d2.pipeline.global_patches import (
    class_token_share,
    global_count,
    global_patches,
    mean_attention,
    received_shares,
    top_count,
    top_share,
)

PATCHES = 20


def one_global_column(share: float) -> Tensor:
    """Every patch gives `share` to patch 7 and the rest to all others alike, [1,20,20]."""
    weights = torch.full((1, PATCHES, PATCHES), (1 - share) / (PATCHES - 1))
    weights[:, :, 7] = share
    return weights


def test_a_uniform_map_has_the_stated_values() -> None:
    received = received_shares(torch.full((2, PATCHES, PATCHES), 0.3))
    torch.testing.assert_close(received, torch.full((2, PATCHES), 1 / PATCHES))
    torch.testing.assert_close(top_share(received), torch.full((2,), 1 / 20))  # k = 1 of 20
    torch.testing.assert_close(top_share(received, 0.11), torch.full((2,), 3 / 20))
    assert global_count(received).tolist() == [0, 0]
    assert float(class_token_share(torch.full((1, 5, 5), 1 / 5))) == pytest.approx(1 / 5)


def test_one_global_column_is_found_with_its_share() -> None:
    received = received_shares(one_global_column(0.4))
    assert received.argmax(1).tolist() == [7]
    assert float(top_share(received)) == pytest.approx(0.4)
    assert global_count(received).tolist() == [1]
    assert global_patches(received).nonzero().tolist() == [[0, 7]]
    # 0.4 is eight times the uniform 0.05, and not more.
    assert global_count(received, factor=7.9).tolist() == [1]
    assert global_count(received, factor=8.1).tolist() == [0]


def test_all_weight_in_one_column_is_the_upper_end() -> None:
    received = received_shares(one_global_column(1.0))
    assert float(top_share(received)) == pytest.approx(1)
    assert global_count(received, factor=19.9).tolist() == [1]


def test_every_patch_that_looks_at_itself_alone_is_uniform() -> None:
    torch.testing.assert_close(received_shares(torch.eye(PATCHES)[None]), torch.full((1, PATCHES), 1 / PATCHES))


def test_every_row_has_one_vote_whatever_its_weight() -> None:
    weights = one_global_column(0.4)
    scaled = weights * torch.linspace(0.1, 50, PATCHES)[None, :, None]
    torch.testing.assert_close(received_shares(scaled), received_shares(weights))


def test_negative_weights_count_as_none_and_empty_rows_do_not_vote() -> None:
    weights = torch.tensor([[[3.0, 1.0, -5.0], [0.0, -1.0, 0.0], [0.0, 1.0, 0.0]]])
    # Rows 0 and 2 vote (3/4, 1/4, 0) and (0, 1, 0).
    torch.testing.assert_close(received_shares(weights), torch.tensor([[3 / 8, 5 / 8, 0.0]]))


def test_nothing_at_all_is_uniform() -> None:
    assert torch.equal(received_shares(torch.zeros(1, 4, 4)), torch.full((1, 4), 0.25))


def test_images_of_a_batch_do_not_mix() -> None:
    received = received_shares(torch.cat([one_global_column(0.4), torch.zeros(1, PATCHES, PATCHES)]))
    torch.testing.assert_close(received[:1], received_shares(one_global_column(0.4)))


@pytest.mark.parametrize(("patches", "count"), [(20, 1), (21, 2), (100, 5), (196, 10), (1, 1)])
def test_the_top_is_a_twentieth_rounded_up(patches: int, count: int) -> None:
    assert top_count(patches) == count


def test_attention_is_the_mean_of_the_softmax_of_every_head() -> None:
    query, key = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 4)
    found = mean_attention(query, key)
    for image in range(2):
        for token in range(5):
            expected = torch.zeros(5)
            for head in range(3):
                logits = [float(query[image, head, token] @ key[image, head, other]) / 2 for other in range(5)]  # √4
                powers = torch.tensor([math.exp(logit) for logit in logits])
                expected += powers / powers.sum() / 3
            torch.testing.assert_close(found[image, token], expected)


def test_attention_keeps_its_precision_under_autocast() -> None:
    query, key = torch.randn(1, 2, 9, 4), torch.randn(1, 2, 9, 4)
    with torch.autocast("cpu", torch.bfloat16):
        found = mean_attention(query, key)
    assert torch.equal(found, mean_attention(query, key))


def test_the_class_token_takes_what_patches_give_it_and_its_own_row_does_not_count() -> None:
    attention = torch.tensor([[[0.9, 0.1, 0.0], [0.2, 0.5, 0.3], [0.6, 0.2, 0.2]]])
    assert float(class_token_share(attention)) == pytest.approx(0.4)
