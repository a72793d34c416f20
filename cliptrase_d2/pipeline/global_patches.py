"""How much all patches look at the same few: the global patches of the supplement, A.1, as numbers.

The supplement sees columns that are bright in every row of the attention between patches. Here a matrix of weights
between patches, attention or a correlation, is brought to rows of sum 1, and what its columns receive is looked at:
a column that all rows like receives many times the uniform 1/N.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

TOP_FRACTION = 0.05  # of the columns: what `top_share` calls the top
FACTOR = 3.0  # times the uniform share: from where on `global_patches` calls a patch global


def mean_attention(query: Tensor, key: Tensor) -> Tensor:
    """softmax(q·kᵀ/√d) of a block, mean over its heads, one after the other: no more than a few T×T are alive at once.

    Args:
        query, key: [B,A,T,d], T = N+1 tokens, token 0 the class token.
    Returns:
        [B,T,T] float32, in [0,1], every row of sum 1.
    """
    batch, heads, tokens, width = query.shape
    total = torch.zeros(batch, tokens, tokens, device=query.device)
    with torch.autocast(query.device.type, enabled=False):
        for q, k in zip(query.float().unbind(1), key.float().unbind(1), strict=True):  # each [B,T,d]
            total += (q @ k.transpose(1, 2) / math.sqrt(width)).softmax(-1)
    return total / heads


def class_token_share(attention: Tensor) -> Tensor:
    """What of their attention patches give to the class token, mean over the patches.

    Args:
        attention: [B,N+1,N+1], rows of sum 1.
    Returns:
        [B] in [0,1]; 1/(N+1) for uniform attention.
    """
    return attention[:, 1:, 0].mean(1)


def received_shares(weights: Tensor) -> Tensor:
    """What every patch receives of all that patches give to patches.

    Negative weights count as 0; then each row is divided by its sum, so that every patch has one vote. A patch without
    any weight has none.

    Args:
        weights: [B,N,N], row i what patch i gives: attention or a correlation without the class token.
    Returns:
        [B,N] in [0,1], sum 1: mean over the rows; 1/N each for uniform weights, and also where no row has any weight.
    """
    weights = weights.float().clamp_min(0)
    given = weights.sum(-1, keepdim=True)  # [B,N,1]
    votes = weights / torch.where(given > 0, given, 1)  # [B,N,N]
    total = votes.sum(1)  # [B,N]
    voters = total.sum(-1, keepdim=True)
    return torch.where(voters > 0, total / torch.where(voters > 0, voters, 1), 1 / weights.shape[1])


def top_share(received: Tensor, fraction: float = TOP_FRACTION) -> Tensor:
    """The part that the most liked patches receive, the top k = ⌈fraction·N⌉ of them.

    Args:
        received: [B,N], sum 1.
        fraction: of the patches, in (0,1].
    Returns:
        [B] in [k/N,1]; k/N for uniform weights, 1 where all patches look at k or fewer.
    """
    return received.topk(top_count(received.shape[1], fraction), dim=1).values.sum(1)


def top_count(patches: int, fraction: float = TOP_FRACTION) -> int:
    """k = ⌈fraction·N⌉ of N patches."""
    return math.ceil(fraction * patches - 1e-9)  # 0.05·20 is 1 and a rounding


def global_patches(received: Tensor, factor: float = FACTOR) -> Tensor:
    """Which patches are global: those that receive more than `factor` times the uniform share 1/N.

    Args:
        received: [B,N], sum 1.
        factor: > 1.
    Returns:
        [B,N] bool, true for less than N/factor patches; for none where weights are uniform.
    """
    return received > factor / received.shape[1]


def global_count(received: Tensor, factor: float = FACTOR) -> Tensor:
    """The number of global patches, [B,N] -> [B] int64."""
    return global_patches(received, factor).sum(1)
