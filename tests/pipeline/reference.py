"""Slow, plain references for every formula of the method.

They are written as loops, in float64, or call scikit-learn's DBSCAN, SciPy's median filter and torch's dense
upsampling. They share no code with the implementation.
"""

from collections import Counter

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import median_filter as scipy_median_filter
from sklearn.cluster import DBSCAN
from torch import Tensor

from cliptrase_d2.clip.tokens import QKV, DenseFeatures, TextFeatures


def cosine(a: Tensor, b: Tensor) -> float:
    return inner_product(a, b) / (inner_product(a, a) * inner_product(b, b)) ** 0.5


def inner_product(a: Tensor, b: Tensor) -> float:
    return float((a.double() * b.double()).sum())


def self_correlation(query: Tensor, key: Tensor, value: Tensor, similarity=cosine, concatenated=False) -> Tensor:
    """Eq. 1-3, or 4-6 with concatenated heads, of one image: [A,T,d] each to [T,T]."""
    heads, tokens, _ = query.shape
    result = torch.zeros(tokens, tokens, dtype=torch.float64)
    for i in range(tokens):
        for j in range(tokens):
            terms = []
            for branch in (query, key, value):
                if concatenated:
                    terms.append(similarity(branch[:, i].flatten(), branch[:, j].flatten()))
                else:
                    terms += [similarity(branch[head, i], branch[head, j]) for head in range(heads)]
            result[i, j] = sum(terms) / len(terms)
    return result


def suppress_global_patches(correlation: Tensor) -> Tensor:
    """R = max(0, S[1:,1:] - S[0,1:]) of one image, [N+1,N+1] to [N,N]."""
    class_row, *patch_rows = correlation.tolist()
    result = [[max(0.0, a - b) for a, b in zip(row[1:], class_row[1:], strict=True)] for row in patch_rows]
    return torch.tensor(result, dtype=correlation.dtype)


def dbscan(rows: Tensor, eps: float, min_samples: int) -> Tensor:
    """scikit-learn's labels of one image, [N,F] to [N]."""
    labels = DBSCAN(eps=eps, min_samples=min_samples).fit_predict(rows.double().numpy())
    return torch.from_numpy(labels.astype(np.int64))


def upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Dense bilinear upsampling, [C,h,w] to [C,H,W]."""
    return F.interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]


def first_argmax(maps: Tensor) -> Tensor:
    """[C,H,W] to [H,W], the smallest index of equal values."""
    best, winner = maps[0].clone(), torch.zeros(maps.shape[1:], dtype=torch.int64)
    for index in range(1, len(maps)):
        better = maps[index] > best
        best[better], winner[better] = maps[index][better], index
    return winner


def median_filter(maps: Tensor, size: int) -> Tensor:
    """SciPy's filter on every map; its "reflect" is the border … c b a | a b c …."""
    filtered = [scipy_median_filter(plane.numpy(), size=size, mode="reflect") for plane in maps]
    return torch.from_numpy(np.stack(filtered))


def cluster_maps(correlation: Tensor, labels: Tensor, grid: tuple[int, int]) -> Tensor:
    """Mean row of every cluster of one image, [N,N] and [N] to [Q,h,w]."""
    maps = []
    for cluster in range(int(labels.max()) + 1):
        members = [row for row, label in zip(correlation, labels.tolist(), strict=True) if label == cluster]
        maps.append(sum(members[1:], members[0].clone()) / len(members))
    return torch.stack(maps).view(-1, *grid) if maps else correlation.new_zeros((0, *grid))


def vote(labels: Tensor, assignment: Tensor) -> Tensor:
    """Every mask takes its most frequent label, the smallest of equally frequent ones; [H,W] both to [H,W]."""
    result = labels.clone()
    for mask in assignment.unique().tolist():
        ballots = Counter(labels[assignment == mask].tolist())
        most = max(ballots.values())
        result[assignment == mask] = min(label for label, count in ballots.items() if count == most)
    return result


def mean_logits(dense: Tensor, assignment: Tensor, masks: int) -> Tensor:
    """Mean over each mask of the upsampled logits, [R,H,W] and [H,W] to [Q,R]; 0 for a mask without pixels."""
    result = torch.zeros(masks, len(dense), dtype=torch.float64)
    for mask in range(masks):
        inside = assignment == mask
        if inside.any():
            result[mask] = dense.double()[:, inside].mean(1)
    return result


def mask_average_pooling(masks: Tensor, features: Tensor) -> Tensor:
    """MAP(m, f) = Σ m·f / Σ m: [Q,N] and [N,D] to [Q,D]; 0 where a mask is empty."""
    result = torch.zeros(len(masks), features.shape[1], dtype=torch.float64)
    for index, mask in enumerate(masks.double()):
        total = sum(float(weight) for weight in mask)
        for weight, feature in zip(mask, features.double(), strict=True):
            result[index] += weight * feature / total if total else 0
    return result


def stitch(values: list[Tensor], corners: list[tuple[int, int]], grid: tuple[int, int]) -> Tensor:
    """Mean over windows, patch by patch: K of [h',w',D] to [h,w,D]."""
    total, count = torch.zeros(*grid, values[0].shape[-1], dtype=torch.float64), torch.zeros(*grid, 1)
    for window, (top, left) in zip(values, corners, strict=True):
        for row in range(window.shape[0]):
            for column in range(window.shape[1]):
                total[top + row, left + column] += window[row, column]
                count[top + row, left + column] += 1
    return total / count


def segment(
    qkv: QKV,
    features: DenseFeatures,
    text: TextFeatures,
    scale: float,
    size: tuple[int, int],
    *,
    eps: float,
    min_samples: int,
    cls_logit_weight: bool = False,
) -> Tensor:
    """The whole method with the paper's choices, from q, k, v and features of one image to its label map [H,W]."""
    correlation = suppress_global_patches(self_correlation(*(branch[0] for branch in qkv)))
    clusters = dbscan(correlation, eps, min_samples)
    class_token = features.class_token[0] if cls_logit_weight else None
    return label_pixels(correlation, clusters, features.patches[0], class_token, text, scale, features.grid, size)


def label_pixels(
    correlation: Tensor,
    clusters: Tensor,
    patches: Tensor,
    class_token: Tensor | None,
    text: TextFeatures,
    scale: float,
    grid: tuple[int, int],
    size: tuple[int, int],
) -> Tensor:
    """The method's second half, masks and vote: [N,N], [N], [N,D], [D] to [H,W]."""
    logits = scale * patches @ text.features.T  # [N,R]
    if class_token is not None:
        logits = logits * (scale * class_token @ text.features.T)
    labels = text.class_index[first_argmax(upsample(logits.T.reshape(-1, *grid), size))]
    maps = cluster_maps(correlation, clusters, grid)
    if not len(maps):
        return labels
    smooth = median_filter(upsample(maps, (4 * grid[0], 4 * grid[1])), 7)
    return vote(labels, first_argmax(upsample(smooth, size)))
