"""Unsupervised segmentation: masks of a whole data set become groups, and groups become classes.

Source: CLIPtrase supplement, B.3 and Table 5; matching and protocol as in PiCIE (https://arxiv.org/abs/2103.17070).
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor

from cliptrase_d2.utils.errors import InputError

_DIGITS = 4  # of features: their last bits depend on the batch and are not to decide a group


def mask_histograms(assignment: Tensor, truth: Tensor, masks: int, classes: int, ignore_label: int) -> Tensor:
    """How many pixels of each class every mask has.

    Args:
        assignment: [H,W] int64, the mask 0 to Q-1 of every pixel.
        truth: [H,W] int64, the class 0 to C-1 of every pixel or the ignore label.
        masks: Q.
        classes: C.
        ignore_label: of pixels that do not count.
    Returns:
        [Q,C] int64.
    """
    counted = truth != ignore_label
    pairs = assignment[counted] * classes + truth[counted]
    return torch.bincount(pairs, minlength=masks * classes).view(masks, classes)


def group_masks(features: np.ndarray, pixels: np.ndarray, groups: int, seed: int) -> np.ndarray:
    """Put masks into groups by mini-batch k-means of their directions; each weighs as much as it has pixels.

    Args:
        features: [M,D], of any length above 0.
        pixels: [M] >= 0.
        groups: G.
        seed: of the k-means.
    Returns:
        [M] int64, the group 0 to G-1 of every mask.
    Raises:
        InputError: fewer masks than groups.
    """
    if len(features) < groups:
        raise InputError(
            "TEST.UNSUPERVISED_GROUPS",
            f"{groups} groups for the {len(features)} masks of the data set",
            "Lower it, or choose a clustering that finds more masks.",
            allowed="at most as many groups as masks",
        )
    directions = features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12)
    kmeans = MiniBatchKMeans(n_clusters=groups, random_state=seed, batch_size=4096, n_init=10)
    return kmeans.fit(np.round(directions, _DIGITS), sample_weight=pixels).labels_.astype(np.int64)


def match_groups(counts: np.ndarray) -> np.ndarray:
    """One class for every group, no class twice, so that as many pixels as possible are right (Hungarian algorithm).

    Args:
        counts: [C,G] pixels, rows classes, columns groups; G <= C.
    Returns:
        [G] int64, the class of each group; where G < C some classes have none.
    """
    classes, groups = linear_sum_assignment(counts, maximize=True)
    assert len(groups) == counts.shape[1]  # the caller saw to it that there are no more groups than classes
    matched = np.empty(len(groups), dtype=np.int64)
    matched[groups] = classes
    return matched
