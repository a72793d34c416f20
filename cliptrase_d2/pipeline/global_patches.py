"""Measures of global patches (supplement, A.1): how strongly all patches favour the same few.

The supplement observes columns that are bright in every row of the attention between patches. Here each row of a matrix
of weights between patches, attention or correlation, is normalised to sum 1, and the means of its columns are measured.
A column that all rows favour receives many times the uniform share 1/N.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

FACTOR = 3.0  # times the uniform share, above which `global_patches` calls a patch global


def mean_attention(query: Tensor, key: Tensor) -> Tensor:
    """Return softmax(q·kᵀ/√d) of a block, mean over its heads.

    Heads are processed one by one, so only a few T×T matrices are in memory at once.

    Args:
        query, key: [B,A,T,d], T = N+1 tokens, token 0 the class token.
    Returns:
        [B,T,T] float32, in [0,1], each row with sum 1.
    """
    batch, heads, tokens, width = query.shape
    total = torch.zeros(batch, tokens, tokens, device=query.device)
    with torch.autocast(query.device.type, enabled=False):
        for q, k in zip(query.float().unbind(1), key.float().unbind(1), strict=True):  # each [B,T,d]
            total += (q @ k.transpose(1, 2) / math.sqrt(width)).softmax(-1)
    return total / heads


def received_shares(weights: Tensor) -> Tensor:
    """Return the share that every patch receives of all weights between patches.

    Negative weights count as 0. Each row is divided by its sum, so that all patches count the same, and rows without
    weight are left out.

    Args:
        weights: [B,N,N], in row i those of patch i: attention or a correlation, without the class token.
    Returns:
        [B,N] in [0,1] with sum 1, mean over the rows; 1/N each for uniform weights or if all weights are 0.
    """
    weights = weights.float().clamp_min(0)
    row_sums = weights.sum(-1, keepdim=True)  # [B,N,1]
    votes = weights / torch.where(row_sums > 0, row_sums, 1)  # [B,N,N]
    total = votes.sum(1)  # [B,N]
    voters = total.sum(-1, keepdim=True)
    return torch.where(voters > 0, total / torch.where(voters > 0, voters, 1), 1 / weights.shape[1])


def global_patches(received: Tensor, factor: float = FACTOR) -> Tensor:
    """Return which patches are global: those that receive more than `factor` times the uniform share 1/N.

    Args:
        received: [B,N], sum 1.
        factor: > 1.
    Returns:
        [B,N] bool, true for fewer than N/factor patches, and for none if the weights are uniform.
    """
    return received > factor / received.shape[1]
