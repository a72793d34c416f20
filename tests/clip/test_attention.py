import math

import pytest
import torch

from cliptrase_d2.clip.attention import ATTENTIONS, attention_named
from cliptrase_d2.errors import InputError


def softmax_correlation(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """One head by plain loops: rows of softmax(a·bᵀ/√d)."""
    rows = []
    for i in range(len(a)):
        exponentials = [math.exp(float(a[i] @ b[j]) / math.sqrt(a.shape[1])) for j in range(len(b))]
        rows.append([value / sum(exponentials) for value in exponentials])
    return torch.tensor(rows)


BRANCHES = {"qk": [(0, 1)], "qq_kk": [(0, 0), (1, 1)], "qq_kk_vv": [(0, 0), (1, 1), (2, 2)]}


@pytest.mark.parametrize("name", BRANCHES)
def test_attention_is_the_plain_sum_of_its_branches(name: str) -> None:
    qkv = torch.randn(3, 2, 2, 5, 4, generator=torch.Generator().manual_seed(0))  # q, k, v of [B=2,A=2,T=5,d=4]
    result = ATTENTIONS[name](*qkv)
    for image in range(2):
        for head in range(2):
            one = qkv[:, image, head]
            matrix = sum(softmax_correlation(one[a], one[b]) for a, b in BRANCHES[name])
            torch.testing.assert_close(result[image, head], matrix @ one[2])


def test_maskclip_passes_values_through() -> None:
    q, k, v = torch.randn(3, 1, 2, 5, 4)
    assert torch.equal(ATTENTIONS["v"](q, k, v), v)


def test_unknown_attention_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"'kk'.*qk, v, qq_kk, qq_kk_vv"):
        attention_named("kk")
