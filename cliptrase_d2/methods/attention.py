"""What can stand in for the attention of CLIP's last block, so that its tokens say where things are.

An entry of `ATTENTIONS` is one small function, and what it keeps of the block. Softmax(a·bᵀ/√d)·v of every branch is
one fused call, so no T×T matrix is kept; the results are summed, which equals applying the summed matrix to v.
A further method is a further entry: ``ATTENTIONS["mine"] = DenseAttention(function, "https://...")``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as attend

from cliptrase_d2.utils.errors import InputError

_NEIGHBOURHOOD = 5.0  # standard deviation of NACLIP's Gaussian, in patches


@dataclass(frozen=True)
class AttentionInput:
    """What a block offers to its attention.

    Attributes:
        query, key, value: [B,A,T,d], T = N+1; token 0 is the class token.
        tokens: [B,T,E], what they are projected from: the block's input after its first norm.
        grid: (h, w) with h·w = N.
        regions: [B,N] int64, the true region of every patch; None but for an oracle.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    tokens: Tensor
    grid: tuple[int, int]
    regions: Tensor | None = None


@dataclass(frozen=True)
class DenseAttention:
    """A way to read dense tokens out of the last blocks; CLIP's own path up to there stays as trained.

    Attributes:
        attend: what stands in for attention, to [B,A,T,d].
        source: where it is described.
        residual: keep the residual connection around the attention.
        mlp: keep the MLP, with its own residual connection.
        blocks: how many blocks it stands in, counted from the last. What it gives adds up beside CLIP's own path.
        is_oracle: whether it looks at the truth.
    """

    attend: Callable[[AttentionInput], Tensor]
    source: str
    residual: bool = True
    mlp: bool = True
    blocks: int = 1
    is_oracle: bool = False


def query_key(given: AttentionInput) -> Tensor:
    """CLIP as trained."""
    return attend(given.query, given.key, given.value)


def value_only(given: AttentionInput) -> Tensor:
    """MaskCLIP: every token keeps its own value."""
    return given.value


def query_query_key_key(given: AttentionInput) -> Tensor:
    """SCLIP: the sum of two self-correlations."""
    return attend(given.query, given.query, given.value) + attend(given.key, given.key, given.value)


def all_self_correlations(given: AttentionInput) -> Tensor:
    """CLIPtrase: the plain sum of three self-correlations (Sec. A.2)."""
    return sum_of_self_attentions(given, lambda branch: branch)


def query_query(given: AttentionInput) -> Tensor:
    """ClearCLIP: queries with queries; the block keeps neither residual nor MLP."""
    return attend(given.query, given.query, given.value)


def key_key_neighbours(given: AttentionInput) -> Tensor:
    """NACLIP: keys with keys, and patches near each other more; the block keeps neither residual nor MLP."""
    nearness = gaussian_neighbourhood(given.grid, _NEIGHBOURHOOD).to(given.key)
    return attend(given.key, given.key, given.value, attn_mask=nearness)


def self_self(given: AttentionInput) -> Tensor:
    """GEM: the mean of three self-attentions of unit vectors, each after one round of drawing alike tokens together.

    The temperature follows the image: 1/τ is the mean length of its tokens over √d.
    """
    lengths = given.tokens.norm(dim=-1).mean(-1)  # [B]
    root = (lengths / math.sqrt(given.query.shape[-1])).sqrt()[:, None, None, None].to(given.value.dtype)
    total = torch.zeros_like(given.value)
    for branch in (given.query, given.key, given.value):
        unit = F.normalize(branch, dim=-1)
        drawn = F.normalize(attend(root * unit, root * unit, unit, scale=1.0), dim=-1)
        total = total + attend(root * drawn, root * drawn, given.value, scale=1.0)
    return total / 3


def own_patch(given: AttentionInput) -> Tensor:
    """Table 1, ⟨x_i, x_i⟩: each of the three branches sees its own token alone, so each gives v."""
    return 3 * given.value


def cosine(given: AttentionInput) -> Tensor:
    """Table 1, COS: CLIPtrase's three branches by cosine.

    The supplement does not say how a cosine becomes a weight. Here vectors get the length √d, for which the 1/√d of
    attention was made, so that the softmax is over √d·cos.
    """
    return sum_of_self_attentions(given, _with_length_root_d)


def cosine_in_region(given: AttentionInput) -> Tensor:
    """Table 1, COS with j in the truth: an oracle, every patch sees the patches of its own true region alone."""
    assert given.regions is not None  # the caller asks is_oracle
    tokens = given.tokens.shape[1]
    allowed = given.tokens.new_zeros(len(given.regions), 1, tokens, tokens, dtype=torch.bool)
    allowed[:, :, 0] = True  # the class token sees everything, and is seen by no patch
    allowed[:, 0, 1:, 1:] = given.regions[:, :, None] == given.regions[:, None, :]
    return sum_of_self_attentions(given, _with_length_root_d, allowed)


def sum_of_self_attentions(
    given: AttentionInput, prepare: Callable[[Tensor], Tensor], allowed: Tensor | None = None
) -> Tensor:
    """Σ softmax(a·aᵀ/√d)·v over the branches a = q, k, v.

    Args:
        given: of the block.
        prepare: applied to every branch before it is compared with itself.
        allowed: [B,1,T,T] bool, who sees whom; None for everybody.
    """
    branches = (prepare(branch) for branch in (given.query, given.key, given.value))
    first, *others = (attend(branch, branch, given.value, attn_mask=allowed) for branch in branches)
    return first + others[0] + others[1]


def gaussian_neighbourhood(grid: tuple[int, int], deviation: float) -> Tensor:
    """exp(-distance²/2σ²) of every two patches, 0 wherever the class token takes part: [N+1,N+1], 0 to 1.

    Args:
        grid: (h, w) with h·w = N.
        deviation: σ, in patches.
    """
    rows, columns = (_gaussian_of_differences(side, deviation) for side in grid)  # [h,h], [w,w]
    # Not torch.kron: exported to ONNX, it keeps the grid of the trace.
    patches = (rows[:, None, :, None] * columns[:, None]).flatten(2).flatten(0, 1)  # [h,w,h,w] to [N,N]
    return F.pad(patches, (1, 0, 1, 0))  # [N+1,N+1]


def _gaussian_of_differences(side: int, deviation: float) -> Tensor:
    place = torch.arange(side, dtype=torch.float32)
    return torch.exp(-(place[:, None] - place[None]).square() / (2 * deviation**2))


def _with_length_root_d(vectors: Tensor) -> Tensor:
    return F.normalize(vectors, dim=-1) * math.sqrt(vectors.shape[-1])


_CLIPTRASE = "https://arxiv.org/abs/2407.08268"
ATTENTIONS: dict[str, DenseAttention] = {
    "qk": DenseAttention(query_key, "https://arxiv.org/abs/2103.00020"),
    "v": DenseAttention(value_only, "https://arxiv.org/abs/2112.01071"),
    "qq_kk": DenseAttention(query_query_key_key, "https://arxiv.org/abs/2312.01597"),
    "qq_kk_vv": DenseAttention(all_self_correlations, _CLIPTRASE),
    "clearclip": DenseAttention(query_query, "https://arxiv.org/abs/2407.12442", residual=False, mlp=False),
    "naclip": DenseAttention(key_key_neighbours, "https://arxiv.org/abs/2404.08181", residual=False, mlp=False),
    "gem": DenseAttention(self_self, "https://arxiv.org/abs/2312.00878", mlp=False, blocks=7),
    "own_patch": DenseAttention(own_patch, _CLIPTRASE),
    "cosine": DenseAttention(cosine, _CLIPTRASE),
    "cosine_oracle": DenseAttention(cosine_in_region, _CLIPTRASE, is_oracle=True),
}


def attention_named(name: str) -> DenseAttention:
    """Look up an attention.

    Raises:
        InputError: there is none of this name.
    """
    if name not in ATTENTIONS:
        raise InputError(
            "MODEL.CLIPTRASE.ATTENTION",
            f"the name {name!r}",
            "Use one of these names.",
            allowed=f"one of {', '.join(ATTENTIONS)}",
        )
    return ATTENTIONS[name]
