"""What can stand in for the last block's attention.

Every function takes q, k, v [B,A,T,d] of one block and returns [B,A,T,d]. One fused call per branch, so no
T×T matrix is kept; softmax(a·bᵀ/√d)·v of every branch is summed, which equals applying the summed matrix to v.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as attend

from cliptrase_d2.errors import InputError


def query_key(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """CLIP as trained (https://arxiv.org/abs/2103.00020)."""
    return attend(q, k, v)


def value_only(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """MaskCLIP: every token keeps its own value (https://arxiv.org/abs/2112.01071)."""
    return v


def query_query_key_key(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """SCLIP: the sum of two self-correlations (https://arxiv.org/abs/2312.01597)."""
    return attend(q, q, v) + attend(k, k, v)


def all_self_correlations(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """CLIPtrase: the plain sum of three self-correlations (https://arxiv.org/abs/2407.08268, Sec. A.2)."""
    return attend(q, q, v) + attend(k, k, v) + attend(v, v, v)


ATTENTIONS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "qk": query_key,
    "v": value_only,
    "qq_kk": query_query_key_key,
    "qq_kk_vv": all_self_correlations,
}


def attention_named(name: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Look up an attention.

    Raises:
        InputError: there is none of this name.
    """
    if name not in ATTENTIONS:
        raise InputError(
            "MODEL.CLIPTRASE.ATTENTION",
            f"the name {name!r}",
            f"one of {', '.join(ATTENTIONS)}",
            "Use one of these names.",
        )
    return ATTENTIONS[name]
