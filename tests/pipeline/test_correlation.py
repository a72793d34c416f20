import pytest
import torch
from torch import Tensor

from cliptrase_d2.pipeline.correlation import patch_correlation, self_correlation, suppress_global_patches
from tests.pipeline import reference

BATCH, HEADS, TOKENS, WIDTH = 2, 3, 7, 4


def branches() -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = torch.randn(3, BATCH, HEADS, TOKENS, WIDTH)
    return query, 5 * key, value - 0.5  # of different length and centre, as in CLIP


@pytest.mark.parametrize("heads", ["separate", "concatenated"])
@pytest.mark.parametrize("measure", ["cosine", "inner_product"])
def test_correlation_is_the_mean_over_branches_and_heads(measure: str, heads: str) -> None:
    qkv = branches()
    similarity = {"cosine": reference.cosine, "inner_product": reference.inner_product}[measure]
    correlation = self_correlation(*qkv, measure=measure, heads=heads)
    for image in range(BATCH):
        expected = reference.self_correlation(*(x[image] for x in qkv), similarity, heads == "concatenated")
        torch.testing.assert_close(correlation[image].double(), expected, atol=1e-5, rtol=1e-5)


def test_two_tokens_by_hand() -> None:
    # One head of width 2. Cosine of the two tokens: q 0 (a right angle), k 1 (parallel), v -1 (opposite): mean 0.
    query = torch.tensor([[[[1.0, 0.0], [0.0, 2.0]]]])
    key = torch.tensor([[[[1.0, 1.0], [3.0, 3.0]]]])
    value = torch.tensor([[[[1.0, 0.0], [-4.0, 0.0]]]])
    torch.testing.assert_close(self_correlation(query, key, value), torch.eye(2)[None])
    # Inner products: of each token with itself (1 + 2 + 1)/3 and (4 + 18 + 16)/3, of the two (0 + 6 - 4)/3.
    expected = torch.tensor([[[4.0, 2.0], [2.0, 38.0]]]) / 3
    torch.testing.assert_close(self_correlation(query, key, value, measure="inner_product"), expected)


def test_separate_and_concatenated_heads_differ_if_one_head_is_longer() -> None:
    # Two tokens are orthogonal in head 0 and parallel in head 1, which is ten times as long.
    heads = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]], [[10.0, 0.0], [10.0, 0.0]]]])
    assert self_correlation(heads, heads, heads)[0, 0, 1].item() == pytest.approx(0.5)
    concatenated = self_correlation(heads, heads, heads, heads="concatenated")
    assert concatenated[0, 0, 1].item() == pytest.approx(100 / 101)


def test_cosine_of_a_zero_vector_is_zero() -> None:
    qkv = branches()
    for branch in qkv:
        branch[:, :, 2] = 0
    assert self_correlation(*qkv)[:, 2].eq(0).all()


def test_correlation_is_float32_under_autocast_and_for_half_precision() -> None:
    qkv = [branch.bfloat16() for branch in branches()]
    with torch.autocast("cpu", torch.bfloat16):
        correlation = self_correlation(*qkv)
    assert correlation.dtype == torch.float32
    assert torch.equal(correlation, self_correlation(*(branch.float() for branch in qkv)))


def test_suppression_subtracts_the_class_token_row_from_every_patch_row() -> None:
    correlation = torch.randn(BATCH, TOKENS, TOKENS)
    for rows, image in zip(suppress_global_patches(correlation), correlation, strict=True):
        torch.testing.assert_close(rows, reference.suppress_global_patches(image))
    assert torch.equal(patch_correlation(correlation), correlation[:, 1:, 1:])


def test_suppression_is_not_symmetric_and_never_negative() -> None:
    # Patch 1 is global: its similarity to the class token is 0.9. Column 1 vanishes, and row 1 keeps the rest.
    correlation = torch.tensor([[[1.0, 0.9, 0.25], [0.9, 1.0, 0.75], [0.25, 0.75, 1.0]]])
    expected = torch.tensor([[[0.1, 0.5], [0.0, 0.75]]])
    torch.testing.assert_close(suppress_global_patches(correlation), expected)
