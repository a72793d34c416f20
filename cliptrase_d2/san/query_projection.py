"""Initial queries of SAN from the features of CLIPtrase's masks (supplement, B.3): k-means, PCA and scaling.

The supplement only says that mask average pooling initialises the query embedding. Here k-means prototypes of a sample
of images, one per query, are projected to the width of the side network.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cliptrase_d2.san.side_network import INITIAL_SCALE
from cliptrase_d2.utils.errors import InputError


class QueryProjection(NamedTuple):
    """An affine map of mask features, f -> weight·f + bias.

    Attributes:
        weight: [S,D].
        bias: [S].
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Project [M,D] to [M,S]."""
        return features @ self.weight.T + self.bias


def fit_projection(features: Tensor, width: int, seed: int = 0) -> QueryProjection:
    """Fit a PCA of mask features with a random rotation, scaled to untrained queries.

    The principal components preserve the differences between masks, most of them in the first few components. The
    rotation spreads them over all channels, as in an untrained embedding, and preserves distances.

    Args:
        features: [M,D] of masks.
        width: S.
        seed: of the rotation.
    Returns:
        A projection to features with mean 0 and root mean square ``side_network.INITIAL_SCALE``.
    Raises:
        InputError: fewer than two masks, or identical masks.
    """
    features = features.double()
    mean = features.mean(0)
    components = torch.linalg.svd(features - mean, full_matrices=False).Vh[:width]  # [K,D], K <= S
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(width, len(components), generator=generator, dtype=torch.float64)
    weight = torch.linalg.qr(noise).Q @ components  # [S,D]; orthonormal columns preserve distances
    scale = ((features - mean) @ weight.T).square().mean().sqrt()
    if len(features) < 2 or scale < 1e-12:
        fix = "Use more images, or a clustering that finds more masks."
        raise InputError("warm start", f"{len(features)} masks with identical features", fix)
    weight = weight * (INITIAL_SCALE / scale)
    return QueryProjection(weight.float(), (-weight @ mean).float())


def find_prototypes(features: Tensor, count: int, seed: int = 0) -> Tensor:
    """Return the k-means centres of mask features.

    Args:
        features: [M,D], approximately L2-normalised.
        count: Q centres.
        seed: of the k-means.
    Returns:
        [Q,D], the largest cluster first.
    Raises:
        InputError: fewer masks than centres.
    """
    if len(features) < count:
        fix = "Use at least as many masks as queries: add images or reduce the queries."
        raise InputError("warm start", f"{len(features)} masks for {count} queries", fix)
    from sklearn.cluster import KMeans  # slow to import, and only a warm start needs it

    kmeans = KMeans(n_clusters=count, n_init=3, random_state=seed).fit(features.double().numpy())
    order = np.argsort(-np.bincount(kmeans.labels_, minlength=count), kind="stable")
    return torch.from_numpy(kmeans.cluster_centers_[order]).float()


def query_embeddings(features: Tensor, count: int, width: int, seed: int = 0) -> Tensor:
    """Return initial queries [1,Q,S]: the projected prototypes of a data set's masks.

    Args:
        features: [M,D] of masks.
        count: Q.
        width: S.
        seed: of k-means and rotation.
    Raises:
        InputError: fewer masks than queries, or identical masks.
    """
    centres = find_prototypes(features, count, seed)
    return fit_projection(centres, width, seed)(centres)[None]
