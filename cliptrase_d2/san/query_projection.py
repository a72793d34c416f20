"""From the features of CLIPtrase's masks to SAN's queries (supplement, B.3): k-means, PCA, and a scale.

The supplement says that mask average pooling initialises the query embedding and no more. Here the features of a
sample of images become as many prototypes as there are queries, or every image brings its own; both pass through the
same projection to the width of the side network.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from cliptrase_d2.san.side_network import INITIAL_SCALE
from cliptrase_d2.utils.errors import InputError

_SMALLEST = 1e-12


@dataclass(frozen=True)
class QueryProjection:
    """An affine map of mask features, f -> weight·f + bias.

    Attributes:
        weight: [S,D].
        bias: [S].
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """[M,D] to [M,S]."""
        return features @ self.weight.T + self.bias


def fit_projection(features: Tensor, width: int, seed: int = 0) -> QueryProjection:
    """PCA of mask features, turned at random and brought to the scale of untrained queries.

    The first principal components, at most S, carry what tells masks apart. Most of that lies in the first few, so a
    seeded random rotation gives every channel a share of all, as in an untrained embedding; it changes no distance.

    Args:
        features: [M,D] of masks.
        width: S.
        seed: of the rotation.
    Returns:
        A projection after which the features have mean 0 and root mean square ``network.INITIAL_SCALE``.
    Raises:
        InputError: fewer than two masks, or masks that are all alike.
    """
    features = features.double()
    mean = features.mean(0)
    components = torch.linalg.svd(features - mean, full_matrices=False).Vh[:width]  # [K,D], K <= S
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(width, len(components), generator=generator, dtype=torch.float64)
    weight = torch.linalg.qr(noise).Q @ components  # [S,D]; orthonormal columns keep distances
    size = ((features - mean) @ weight.T).square().mean().sqrt()
    if len(features) < 2 or size < _SMALLEST:
        fix = "Take more images, or a clustering that finds more masks."
        raise InputError("warm start", f"{len(features)} masks, all alike", fix, allowed="masks that differ")
    weight = weight * (INITIAL_SCALE / size)
    return QueryProjection(weight.float(), (-weight @ mean).float())


def prototypes(features: Tensor, count: int, seed: int = 0) -> Tensor:
    """Centres of a k-means of mask features.

    Args:
        features: [M,D], L2-normalised or nearly so.
        count: Q centres.
        seed: of the k-means.
    Returns:
        [Q,D], those of the most masks first.
    Raises:
        InputError: fewer masks than centres.
    """
    if len(features) < count:
        raise InputError(
            "warm start",
            f"{len(features)} masks for {count} queries",
            "Raise MODEL.SAN.QUERY_INIT_IMAGES, or lower MODEL.SIDE_ADAPTER.NUM_QUERIES.",
            allowed="at least as many masks as queries",
        )
    kmeans = KMeans(n_clusters=count, n_init=3, random_state=seed).fit(features.double().numpy())
    order = np.argsort(-np.bincount(kmeans.labels_, minlength=count), kind="stable")
    return torch.from_numpy(kmeans.cluster_centers_[order]).float()


def query_embeddings(features: Tensor, count: int, width: int, seed: int = 0) -> Tensor:
    """Queries [1,Q,S] that stand for the masks of a data set, at the scale of untrained ones.

    Args:
        features: [M,D] of masks.
        count: Q.
        width: S.
        seed: of k-means and rotation.
    Raises:
        InputError: fewer masks than queries, or masks that are all alike.
    """
    centres = prototypes(features, count, seed)
    return fit_projection(centres, width, seed)(centres)[None]
