"""Density clustering of correlation rows: patches that resemble the same patches form a cluster.

DBSCAN is batched and runs on the device of its input. Source: CLIPtrase supplement, A.2 and C; Ester et al., KDD 1996.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

NOISE = -1
_DISTANCE_BYTES = 256 * 2**20  # bound on the float64 distances in memory at once


def dbscan(features: Tensor, eps: float, min_samples: int) -> Tensor:
    """Cluster the rows of each image. The labels equal those of scikit-learn's DBSCAN.

    A core point has at least `min_samples` points within `eps`, itself included. Clusters are numbered by their
    smallest core point. A border point joins the smallest-numbered cluster within `eps`. A row with NaN or an infinite
    value has no neighbour but itself.

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


def adaptive_parameters(points: int) -> tuple[float, int]:
    """Return DBSCAN's parameters for a grid of any size, ε = 0.05·√N and min_samples = round(N/65).

    Rounded, they are the paper's two settings, 0.7 and 3 at N = 196, 1.1 and 7 at N = 441. min_samples is at least 2,
    since one point is not a dense neighbourhood.
    """
    return 0.05 * math.sqrt(points), max(2, round(points / 65))


def hdbscan_clusters(features: Tensor, min_cluster_size: int) -> Tensor:
    """Cluster the rows of each image by HDBSCAN, which needs no radius (Campello et al., PAKDD 2013). Runs on the CPU.

    Args:
        features: [B,N,F], one row per patch.
        min_cluster_size: smallest cluster, >= 2.
    Returns:
        [B,N] int64, clusters numbered by their smallest member, -1 for noise. Rows with NaN or an infinite value are
        noise.
    """
    rows = features.double().cpu().numpy()
    labels = np.full(rows.shape[:2], NOISE, dtype=np.int64)
    for image, is_finite, image_labels in zip(rows, np.isfinite(rows).all(-1), labels, strict=True):
        image_labels[is_finite] = _hdbscan(image[is_finite], min_cluster_size)
    return torch.from_numpy(labels).to(features.device)


def _hdbscan(rows: np.ndarray, min_cluster_size: int) -> np.ndarray:
    if len(rows) <= min_cluster_size:  # the package fails unless a point is left over
        return np.full(len(rows), NOISE, dtype=np.int64)
    import hdbscan  # slow to import, and not the default

    labels = hdbscan.HDBSCAN(min_cluster_size=min_cluster_size).fit_predict(rows)
    clusters, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    order = np.where(clusters == NOISE, -1, first)
    rank = np.argsort(np.argsort(order)) - (NOISE in clusters)
    return rank[inverse].astype(np.int64)


def _dbscan(features: Tensor, eps: float, min_samples: int) -> Tensor:
    points = features.shape[1]
    near = _find_neighbours(features, eps)  # [B,N,N]
    core = near.sum(-1) >= min_samples  # [B,N]
    reach = near & core[:, None, :]  # [B,N,N], from each point to the core points near it
    root = _find_roots(reach & core[:, :, None], core)  # [B,N], N if not core
    index = torch.arange(points, device=features.device)
    number = (root == index).cumsum(-1) - 1  # [B,N], the cluster of each root
    cluster = torch.where(core, number.gather(1, root.clamp_max(points - 1)), points)
    border = torch.where(reach, cluster[:, None, :], points).amin(-1)
    cluster = torch.where(core, cluster, border)
    return torch.where(cluster < points, cluster, NOISE)


def _find_neighbours(features: Tensor, eps: float) -> Tensor:
    """Return which points are within `eps` of each other, themselves included, [B,N,F] to [B,N,N] bool.

    Distances are float64, since rounding must not decide about points at exactly `eps`. This takes memory, so the rows
    are processed in chunks.
    """
    rows = features.double()
    squares = rows.square().sum(-1)  # [B,N]
    chunk = max(1, _DISTANCE_BYTES // max(1, 8 * squares.numel()))
    parts = []
    with torch.autocast(features.device.type, enabled=False):
        for part, own in zip(rows.split(chunk, dim=1), squares.split(chunk, dim=1), strict=True):
            distances = torch.baddbmm(squares[:, None, :], part, rows.mT, alpha=-2)  # [B,n,N]
            parts.append(distances.add_(own[:, :, None]) <= eps * eps)
    near = torch.cat(parts, dim=1)
    near.diagonal(dim1=1, dim2=2).fill_(True)  # the rounding of long rows can exceed eps
    return near


def _find_roots(edges: Tensor, core: Tensor) -> Tensor:
    """Return the smallest index in the connected component of each core point, [B,N] int64; N for other points.

    In each round a point takes the smallest label among its neighbours, passes it to its current root, and adopts that
    root's label. The number of rounds grows with the logarithm of a component's length.

    Args:
        edges: [B,N,N] bool, symmetric, between core points only.
        core: [B,N] bool.
    """
    points = core.shape[1]
    index = torch.arange(points, device=core.device).expand_as(core)
    label = torch.where(core, index, points)
    while True:
        # int32 halves the memory traffic of the only N×N pass.
        nearest = torch.where(edges, label.int()[:, None, :], points).amin(-1).long()
        hooked = torch.cat([label, label.new_full((len(label), 1), points)], dim=1)
        hooked = hooked.scatter_reduce(1, label, nearest, "amin")  # point old roots at smaller ones
        hooked = hooked.gather(1, hooked)
        if torch.equal(hooked[:, :points], label):
            return label
        label = hooked[:, :points]
