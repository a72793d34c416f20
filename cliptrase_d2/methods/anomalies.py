"""Anomalous patches: their detection, and their repair by the mean of their neighbours (SC-CLIP, SFP)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_NEIGHBOURS = 30
_QUANTILE = 0.95
_SAME = 1e-12  # squared distances below this share of the squared lengths are rounding errors


def local_outlier_scores(patches: Tensor) -> Tensor:
    """Return SC-CLIP's variant of the local outlier factor, the mean of ρ_j/ρ_i over the neighbours j of a patch i.

    The density is ρ_i = 1/κ_i, where κ_i is the largest squared distance of i to its 30 nearest neighbours, or to all
    others in a smaller image. The textbook's factor has distances that are not squared, and it raises them to the κ of
    the neighbour.

    Args:
        patches: [B,N,E].
    Returns:
        [B,N] float64, > 0; 1 for a patch as dense as its neighbours.
    """
    x = patches.double()
    lengths = x.square().sum(-1)  # [B,N]
    sums = lengths[:, :, None] + lengths[:, None]
    distances = torch.baddbmm(sums, x, x.transpose(1, 2), alpha=-2)  # [B,N,N]
    distances = distances.masked_fill(distances < _SAME * sums, 0)
    distances.diagonal(dim1=1, dim2=2).fill_(-1)  # a patch is the nearest to itself, also among equal ones
    nearest = distances.topk(min(_NEIGHBOURS + 1, x.shape[1]), largest=False)
    neighbours = nearest.indices[:, :, 1:]  # [B,N,k]
    radius = nearest.values[:, :, -1].clamp_min(torch.finfo(x.dtype).tiny)  # κ, [B,N]
    gathered = radius.gather(1, neighbours.flatten(1)).view_as(neighbours)
    return (radius[:, :, None] / gathered).mean(-1)


def find_local_outliers(patches: Tensor) -> Tensor:
    """Return the patches whose `local_outlier_scores` exceed the 0.95 quantile of their image, [B,N,E] to [B,N] bool.

    Equal scores have no outlier.
    """
    scores = local_outlier_scores(patches)
    return scores > scores.quantile(_QUANTILE, dim=1, keepdim=True)


def find_attention_outliers(query: Tensor, key: Tensor, factor: float, count: int) -> Tensor:
    """Return the patches that the class token attends to more than they attend to themselves (SFP).

    Attention is the mean over the heads of softmax(q·kᵀ/√d).

    Args:
        query, key: [B,A,N+1,d], the class token first.
        factor: of the attention of the class token.
        count: largest number of patches; those with the highest attention of the class token are returned.
    Returns:
        [B,N] bool.
    """
    by_class, by_itself = class_and_self_attention(query, key)
    by_class = factor * by_class
    ranked = by_class.masked_fill(by_class <= by_itself, -torch.inf)
    return _mark_largest(ranked, count)


def find_long_patches(patches: Tensor, count: int) -> Tensor:
    """Return the patches of the largest length ‖x‖, [B,N,E] to [B,N] bool."""
    return _mark_largest(patches.float().norm(dim=-1), count)


def class_and_self_attention(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Return the attention of the class token to every patch, and of every patch to itself, each [B,N] float32.

    Args:
        query, key: [B,A,N+1,d].
    """
    by_class, by_itself = [], []
    for q, k in zip(query.unbind(1), key.unbind(1), strict=True):  # one head at a time: no [B,A,N+1,N+1]
        logits = (q @ k.transpose(1, 2)).float() / math.sqrt(q.shape[-1])  # [B,N+1,N+1]
        total = logits.logsumexp(-1)  # [B,N+1]
        by_class.append((logits[:, 0] - total[:, :1]).exp())
        by_itself.append((logits.diagonal(dim1=1, dim2=2) - total).exp())
    return torch.stack(by_class).mean(0)[:, 1:], torch.stack(by_itself).mean(0)[:, 1:]


def _mark_largest(values: Tensor, count: int) -> Tensor:
    """Return the `count` largest finite values of every row, [B,N] to [B,N] bool."""
    top = values.topk(min(count, values.shape[1]))
    marks = torch.zeros_like(values, dtype=torch.bool)
    return marks.scatter(1, top.indices, top.values.isfinite())


def repair(patches: Tensor, outliers: Tensor, grid: tuple[int, int], *, keep_isolated: bool = True) -> Tensor:
    """Replace every outlier by the mean of those of its 8 neighbours that are no outliers.

    Args:
        patches: [B,N,E], row by row of the grid.
        outliers: [B,N] bool.
        grid: (h, w) with h·w = N.
        keep_isolated: whether an outlier without such a neighbour keeps its vector; otherwise it becomes zero.
    Returns:
        [B,N,E].
    """
    valid = (~outliers).to(patches.dtype)[:, :, None]  # [B,N,1]
    planes = torch.cat([patches * valid, valid], dim=2).transpose(1, 2).unflatten(2, grid)  # [B,E+1,h,w]
    sums = F.avg_pool2d(planes, 3, stride=1, padding=1, divisor_override=1).flatten(2).transpose(1, 2)  # [B,N,E+1]
    counts = sums[:, :, -1:]
    replaced = outliers[:, :, None] & (counts > 0) if keep_isolated else outliers[:, :, None]
    return torch.where(replaced, sums[:, :, :-1] / counts.clamp_min(1), patches)
