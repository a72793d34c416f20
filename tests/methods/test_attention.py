import math

import pytest
import torch
from torch import Tensor

from cliptrase_d2.methods.attention import ATTENTIONS, AttentionInput, attention_named, gaussian_neighbourhood
from cliptrase_d2.utils.errors import InputError

GRID = (2, 3)  # 6 patches, 7 tokens


def given(regions: Tensor | None = None) -> AttentionInput:
    """B=2 images, A=2 heads, T=7 tokens, d=4."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 2, 7, 4, generator=generator)
    return AttentionInput(q, k, v, torch.randn(2, 7, 8, generator=generator), GRID, regions)


def softmax_rows(scores: Tensor) -> Tensor:
    """Row by row, number by number; -inf takes no part."""
    rows = []
    for row in scores.tolist():
        exponentials = [math.exp(value) for value in row]
        rows.append([value / sum(exponentials) for value in exponentials])
    return torch.tensor(rows)


def one_head(name: str, q: Tensor, k: Tensor, v: Tensor, tokens: Tensor, regions: Tensor | None = None) -> Tensor:
    """What an attention gives for one image and head, [T,d], as its paper writes it."""
    root = math.sqrt(q.shape[1])

    def unit(vectors: Tensor) -> Tensor:
        return vectors / vectors.norm(dim=1, keepdim=True)

    if name == "gem":
        heat = float(tokens.norm(dim=1).mean()) / root
        total = torch.zeros_like(v)
        for branch in (q, k, v):
            drawn = unit(softmax_rows(unit(branch) @ unit(branch).T * heat) @ unit(branch))
            total += softmax_rows(drawn @ drawn.T * heat) @ v / 3
        return total
    scores = {
        "qk": [q @ k.T / root],
        "qq_kk": [q @ q.T / root, k @ k.T / root],
        "qq_kk_vv": [q @ q.T / root, k @ k.T / root, v @ v.T / root],
        "clearclip": [q @ q.T / root],
        "naclip": [k @ k.T / root + nearness_by_loops(5.0)],
        "cosine": [unit(branch) @ unit(branch).T * root for branch in (q, k, v)],
    }
    scores["cosine_oracle"] = scores["cosine"]
    blocked = torch.zeros(len(q), len(q))
    if regions is not None:
        for i in range(1, len(q)):
            for j in range(len(q)):
                if j == 0 or regions[i - 1] != regions[j - 1]:
                    blocked[i, j] = -torch.inf
    return sum(softmax_rows(matrix + blocked) for matrix in scores[name]) @ v


def nearness_by_loops(deviation: float) -> Tensor:
    matrix = torch.zeros(7, 7)
    for i in range(6):
        for j in range(6):
            (y, x), (other_y, other_x) = divmod(i, 3), divmod(j, 3)
            matrix[i + 1, j + 1] = math.exp(-((y - other_y) ** 2 + (x - other_x) ** 2) / (2 * deviation**2))
    return matrix


@pytest.mark.parametrize("name", sorted(set(ATTENTIONS) - {"v", "own_patch"}))
def test_attention_is_what_its_paper_writes(name: str) -> None:
    regions = torch.tensor([[0, 0, 1, 1, 1, 255], [4, 4, 4, 4, 4, 4]]) if name == "cosine_oracle" else None
    block = given(regions)
    result = ATTENTIONS[name].attend(block)
    for image in range(2):
        of_image = None if regions is None else regions[image]
        for head in range(2):
            qkv = (part[image, head] for part in (block.query, block.key, block.value))
            expected = one_head(name, *qkv, block.tokens[image], of_image)
            torch.testing.assert_close(result[image, head], expected, atol=1e-6, rtol=1e-5)


def test_maskclip_passes_values_through() -> None:
    assert torch.equal(ATTENTIONS["v"].attend(given()), given().value)


def test_each_branch_gives_v_where_a_patch_sees_itself_alone() -> None:
    # The sum of three branches whose softmax is over one patch, so with weight 1.
    assert torch.equal(ATTENTIONS["own_patch"].attend(given()), 3 * given().value)


def test_an_oracle_with_one_region_differs_from_no_oracle_by_the_class_token_alone() -> None:
    block = given(torch.zeros(2, 6, dtype=torch.int64))
    q, k, v = (part[:, :, 1:] for part in (block.query, block.key, block.value))
    patches = ATTENTIONS["cosine"].attend(AttentionInput(q, k, v, block.tokens[:, 1:], GRID))
    torch.testing.assert_close(ATTENTIONS["cosine_oracle"].attend(block)[:, :, 1:], patches)


def test_neighbourhood_by_hand() -> None:
    matrix = gaussian_neighbourhood((1, 3), 1.0)
    assert not matrix[0].any()
    assert not matrix[:, 0].any()
    torch.testing.assert_close(matrix[1, 1:], torch.tensor([1.0, math.exp(-0.5), math.exp(-2.0)]))


def test_neighbourhood_of_a_grid_that_is_no_square() -> None:
    torch.testing.assert_close(gaussian_neighbourhood(GRID, 5.0), nearness_by_loops(5.0))


def test_cosine_does_not_see_lengths() -> None:
    block = given()
    longer = AttentionInput(7 * block.query, 0.1 * block.key, block.value, block.tokens, GRID)
    torch.testing.assert_close(ATTENTIONS["cosine"].attend(longer), ATTENTIONS["cosine"].attend(block))


def test_gem_sees_the_length_of_the_tokens_only_as_a_temperature() -> None:
    block = given()
    cold = AttentionInput(block.query, block.key, block.value, 1e-6 * block.tokens, GRID)
    uniform = block.value.mean(2, keepdim=True).expand_as(block.value)  # no heat: every token counts the same
    torch.testing.assert_close(ATTENTIONS["gem"].attend(cold), uniform, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["cosine", "naclip", "gem"])
def test_half_precision_stays_near(name: str) -> None:
    block = given()
    half = AttentionInput(*(part.bfloat16() for part in (block.query, block.key, block.value)), block.tokens, GRID)
    exact, near = ATTENTIONS[name].attend(block), ATTENTIONS[name].attend(half)
    torch.testing.assert_close(near.float(), exact, atol=0.05, rtol=0)


def test_every_attention_names_its_source() -> None:
    assert all(attention.source.startswith("https://") for attention in ATTENTIONS.values())


def test_unknown_attention_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"'kk'.*qk, v, qq_kk, qq_kk_vv"):
        attention_named("kk")


def test_the_neighbourhood_of_an_exported_tower_follows_its_grid() -> None:
    class Neighbourhood(torch.nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return gaussian_neighbourhood((image.shape[0], image.shape[1]), 5.0)

    sides = {0: torch.export.Dim("h", max=1000), 1: torch.export.Dim("w", max=1000)}
    exported = torch.export.export(Neighbourhood(), (torch.zeros(4, 4),), dynamic_shapes={"image": sides}).module()
    torch.testing.assert_close(exported(torch.zeros(2, 3)), gaussian_neighbourhood((2, 3), 5.0))
