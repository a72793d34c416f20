"""Density clustering of correlation rows: patches that are alike to the same patches belong together.

DBSCAN runs batched, on the device of its input. Source: CLIPtrase supplement, A.2 and C; Ester et al., KDD 1996.
"""

from __future__ import annotations

import math

import hdbscan
import numpy as np
import torch
from torch import Tensor

NOISE = -1
_DISTANCE_BYTES = 256 * 2**20  # bound on the float64 distances that are alive at once


def dbscan(features: Tensor, eps: float, min_samples: int) -> Tensor:
    """Cluster the rows of every image; equal, label for label, to scikit-learn's DBSCAN.

    A core point has at least `min_samples` points within `eps`, itself included. Clusters are numbered by
    their smallest core point; a border point joins the smallest-numbered cluster in its reach. A row with an infinite
    value or NaN is near to nothing but itself.

    Args:
        features: [B,N,F], one row per patch.
        eps: Euclidean radius, > 0.
        min_samples: size of a dense neighbourhood, >= 1.
    Returns:
        [B,N] int64, cluster 0, 1, …, or -1 for noise.
    """
    points = features.shape[1]
    images = max(1, _DISTANCE_BYTES // (8 * points * points))
    return torch.cat([_dbscan(chunk, eps, min_samples) for chunk in features.split(images)])


def adaptive_dbscan(points: int) -> tuple[float, int]:
    """One DBSCAN setting for grids of any size, ε = 0.05·√N and min_samples = round(N/65).

    It meets the paper's two settings, 0.7 and 3 at N = 196, 1.1 and 7 at N = 441. Two points are the least
    that can be called dense, so min_samples never falls below 2.
    """
    return 0.05 * math.sqrt(points), max(2, round(points / 65))


def hdbscan_clusters(features: Tensor, min_cluster_size: int) -> Tensor:
    """Cluster the rows of every image by HDBSCAN, which needs no radius (Campello et al., PAKDD 2013).

    Args:
        features: [B,N,F], one row per patch.
        min_cluster_size: smallest cluster, >= 2.
    Returns:
        [B,N] int64, clusters numbered by their smallest member, -1 for noise, which rows with an infinite value or NaN
        are as well; runs on the CPU.
    """
    rows = features.double().cpu().numpy()
    labels = np.full(rows.shape[:2], NOISE, dtype=np.int64)
    for image, is_finite, found in zip(rows, np.isfinite(rows).all(-1), labels, strict=True):
        found[is_finite] = _hdbscan(image[is_finite], min_cluster_size)
    return torch.from_numpy(labels).to(features.device)


def _hdbscan(rows: np.ndarray, min_cluster_size: int) -> np.ndarray:
    if len(rows) <= min_cluster_size:  # the package wants more points than one cluster holds
        return np.full(len(rows), NOISE, dtype=np.int64)
    found = hdbscan.HDBSCAN(min_cluster_size=min_cluster_size).fit_predict(rows)
    names, first, inverse = np.unique(found, return_index=True, return_inverse=True)
    order = np.where(names == NOISE, -1, first)
    rank = np.argsort(np.argsort(order)) - (NOISE in names)
    return rank[inverse].astype(np.int64)


def _dbscan(features: Tensor, eps: float, min_samples: int) -> Tensor:
    points = features.shape[1]
    near = _near(features, eps)  # [B,N,N]
    core = near.sum(-1) >= min_samples  # [B,N]
    reach = near & core[:, None, :]  # [B,N,N], point -> the core points near it
    root = _smallest_connected(reach & core[:, :, None], core)  # [B,N], N where no core
    index = torch.arange(points, device=features.device)
    number = (root == index).cumsum(-1) - 1  # [B,N], the cluster that a root founds
    cluster = torch.where(core, number.gather(1, root.clamp_max(points - 1)), points)
    border = torch.where(reach, cluster[:, None, :], points).amin(-1)
    cluster = torch.where(core, cluster, border)
    return torch.where(cluster < points, cluster, NOISE)


def _near(features: Tensor, eps: float) -> Tensor:
    """Which points are within `eps` of each other, themselves included, [B,N,F] -> [B,N,N] bool.

    In float64, for a neighbour at the rim must not depend on rounding; some rows at a time, for that takes memory.
    """
    rows = features.double()
    squares = rows.square().sum(-1)  # [B,N]
    some = max(1, _DISTANCE_BYTES // max(1, 8 * squares.numel()))
    near = []
    with torch.autocast(features.device.type, enabled=False):
        for part, own in zip(rows.split(some, dim=1), squares.split(some, dim=1), strict=True):
            distances = torch.baddbmm(squares[:, None, :], part, rows.mT, alpha=-2)  # [B,n,N]
            near.append(distances.add_(own[:, :, None]) <= eps * eps)
    found = torch.cat(near, dim=1)
    found.diagonal(dim1=1, dim2=2).fill_(True)  # the rounding of long rows can exceed eps
    return found


def _smallest_connected(edges: Tensor, core: Tensor) -> Tensor:
    """Smallest index in the connected component of every core point, N for the others.

    Each round a point takes the smallest label among its neighbours, tells it to the point it is labelled
    with, and follows that one's label: the number of rounds grows with the logarithm of a component's length.

    Args:
        edges: [B,N,N] bool, symmetric, between core points only.
        core: [B,N] bool.
    """
    points = core.shape[1]
    index = torch.arange(points, device=core.device).expand_as(core)
    label = torch.where(core, index, points)
    while True:
        # int32 halves the traffic of the one N×N pass.
        nearest = torch.where(edges, label.int()[:, None, :], points).amin(-1).long()
        hooked = torch.cat([label, label.new_full((len(label), 1), points)], dim=1)
        hooked = hooked.scatter_reduce(1, label, nearest, "amin")  # the old root hears of a smaller one
        hooked = hooked.gather(1, hooked)
        if torch.equal(hooked[:, :points], label):
            return label
        label = hooked[:, :points]
