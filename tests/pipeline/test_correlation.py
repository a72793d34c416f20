from __future__ import annotations

import pytest
import torch

from cliptrase_d2.pipeline.correlation import patch_correlation, self_correlation, suppress_global_patches
from tests.pipeline import reference

BATCH, HEADS, TOKENS, WIDTH = 2, 3, 7, 4


def branches() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    query, key, value = torch.randn(3, BATCH, HEADS, TOKENS, WIDTH)
    return query, 5 * key, value - 0.5  # branches of their own length and centre, as in CLIP


@pytest.mark.parametrize("heads", ["separate", "concatenated"])
@pytest.mark.parametrize("measure", ["cosine", "inner_product"])
def test_it_is_the_mean_over_branches_and_heads(measure: str, heads: str) -> None:
    query, key, value = branches()
    similarity = {"cosine": reference.cosine, "inner_product": reference.inner_product}[measure]
    found = self_correlation(query, key, value, measure=measure, heads=heads)
    assert found.shape == (BATCH, TOKENS, TOKENS)
    for image in range(BATCH):
        expected = reference.self_correlation(
            query[image], key[image], value[image], similarity, concatenated=heads == "concatenated"
        )
        torch.testing.assert_close(found[image].double(), expected, atol=1e-5, rtol=1e-5)


def test_two_tokens_by_hand() -> None:
    # One head of width 2. Cosine of the two tokens: q 0 (a right angle), k 1 (parallel), v -1 (opposite): mean 0.
    query = torch.tensor([[[[1.0, 0.0], [0.0, 2.0]]]])
    key = torch.tensor([[[[1.0, 1.0], [3.0, 3.0]]]])
    value = torch.tensor([[[[1.0, 0.0], [-4.0, 0.0]]]])
    torch.testing.assert_close(self_correlation(query, key, value), torch.eye(2)[None])
    # Inner products: with itself (1 + 2 + 1)/3 and (4 + 18 + 16)/3, with the other (0 + 6 - 4)/3.
    expected = torch.tensor([[[4.0, 2.0], [2.0, 38.0]]]) / 3
    torch.testing.assert_close(self_correlation(query, key, value, measure="inner_product"), expected)


def test_heads_differ_from_their_concatenation_where_one_is_longer() -> None:
    # Head 0 sees a right angle, head 1 (ten times as long) parallel tokens: 1/2 apart, nearly 1 together.
    heads = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]], [[10.0, 0.0], [10.0, 0.0]]]])
    assert self_correlation(heads, heads, heads)[0, 0, 1].item() == pytest.approx(0.5)
    found = self_correlation(heads, heads, heads, heads="concatenated")[0, 0, 1].item()
    assert found == pytest.approx(100 / 101)


def test_cosine_of_a_zero_vector_is_zero() -> None:
    query, key, value = (branch.clone() for branch in branches())
    for branch in (query, key, value):
        branch[:, :, 2] = 0
    assert self_correlation(query, key, value)[:, 2].eq(0).all()


def test_autocast_and_half_precision_do_not_blur_it() -> None:
    query, key, value = (branch.bfloat16() for branch in branches())
    with torch.autocast("cpu", torch.bfloat16):
        found = self_correlation(query, key, value)
    assert found.dtype == torch.float32
    assert torch.equal(found, self_correlation(query.float(), key.float(), value.float()))


def test_suppression_takes_the_class_tokens_row_from_every_patch_row() -> None:
    correlation = torch.randn(BATCH, TOKENS, TOKENS)
    found = suppress_global_patches(correlation)
    for image in range(BATCH):
        torch.testing.assert_close(found[image], reference.suppress_global_patches(correlation[image]))


def test_suppression_is_not_symmetric_and_never_negative() -> None:
    # Patch 1 is global: the class token is 0.9 like it. Column 1 vanishes, row 1 keeps what it has left.
    correlation = torch.tensor([[[1.0, 0.9, 0.25], [0.9, 1.0, 0.75], [0.25, 0.75, 1.0]]])
    expected = torch.tensor([[[0.1, 0.5], [0.0, 0.75]]])
    torch.testing.assert_close(suppress_global_patches(correlation), expected)


def test_without_suppression_the_patch_rows_are_kept() -> None:
    correlation = torch.randn(BATCH, TOKENS, TOKENS)
    assert torch.equal(patch_correlation(correlation), correlation[:, 1:, 1:])
