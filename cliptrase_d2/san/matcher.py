"""Which query answers for which true mask: the Hungarian algorithm on class, mask and dice costs (DETR, MaskFormer)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from cliptrase_d2.san.points import sample_points


@dataclass(frozen=True)
class Targets:
    """The truth of one image.

    Attributes:
        labels: [T] int64, the class of every mask.
        masks: [T,H,W] bool.
    """

    labels: Tensor
    masks: Tensor


@dataclass(frozen=True)
class LossWeights:
    """What a class, a mask and a dice cost or loss counts."""

    label: float = 2.0
    mask: float = 5.0
    dice: float = 5.0


@torch.no_grad()
def match(
    class_logits: Tensor, mask_logits: Tensor, targets: Targets, weights: LossWeights, points: int
) -> tuple[Tensor, Tensor]:
    """Give each true mask of one image a query of its own, at the least cost in all.

    Args:
        class_logits: [Q,C+1].
        mask_logits: [Q,h,w].
        targets: T true masks of any size.
        weights: of the costs.
        points: random points at which masks are compared, the same for all.
    Returns:
        Queries [K] and true masks [K] int64 on the CPU, K = min(Q,T).
    """
    where = torch.rand(1, points, 2, device=mask_logits.device)
    found = sample_points(mask_logits.float(), where)  # [Q,P]
    truth = sample_points(targets.masks.float(), where)  # [T,P]
    cost = (
        -weights.label * class_logits.float().softmax(-1)[:, targets.labels]
        + weights.mask * cross_entropy_cost(found, truth)
        + weights.dice * dice_cost(found, truth)
    )  # [Q,T]
    # A prediction that is no number shall stop the training by its loss, which says more than an error from here.
    queries, masks = linear_sum_assignment(cost.nan_to_num(0.0, 0.0, 0.0).cpu().numpy())
    return torch.from_numpy(queries), torch.from_numpy(masks)


def cross_entropy_cost(logits: Tensor, truth: Tensor) -> Tensor:
    """Mean binary cross-entropy of every pair, logits [Q,P] and truth [T,P] in [0,1] to [Q,T]."""
    # -log σ(x) = softplus(-x) and -log(1-σ(x)) = softplus(x) = softplus(-x) + x
    positive, negative = F.softplus(-logits), F.softplus(logits)
    return (positive @ truth.T + negative @ (1 - truth).T) / logits.shape[1]


def dice_cost(logits: Tensor, truth: Tensor) -> Tensor:
    """One minus the dice coefficient of every pair, with 1 added to both parts of it; shapes as above."""
    share = logits.sigmoid()
    both = 2 * share @ truth.T
    return 1 - (both + 1) / (share.sum(1)[:, None] + truth.sum(1)[None] + 1)
