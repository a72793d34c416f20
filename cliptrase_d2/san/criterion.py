"""Losses of mask classification (DETR, MaskFormer, SAN): Hungarian matching, then class, mask and dice losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Targets(NamedTuple):
    """The ground truth of one image.

    Attributes:
        labels: [T] int64, the class of each mask.
        masks: [T,H,W] bool; H and W are the same for all images of a batch.
    """

    labels: Tensor
    masks: Tensor


class Prediction(NamedTuple):
    """The output of one decoded block.

    Attributes:
        class_logits: [B,Q,C+1], the last class is "no object".
        mask_logits: [B,Q,h,w].
    """

    class_logits: Tensor
    mask_logits: Tensor


class LossWeights(NamedTuple):
    """Weights of the class, mask and dice terms, in the losses and in the matching cost."""

    label: float = 2.0
    mask: float = 5.0
    dice: float = 5.0


@dataclass(frozen=True)
class LossNormalizers:
    """Divisors of the summed losses, counted over the whole batch even if a step takes it in parts.

    Attributes:
        masks: number of true masks, averaged over processes, at least 1.
        label_weight: sum of the class weights of all queries.
    """

    masks: float
    label_weight: float


class Criterion(nn.Module):
    """Match queries to true masks and compute their losses.

    Args:
        num_classes: C.
        weights: of the three losses and of the matching costs.
        no_object_weight: class weight of unmatched queries; matched queries have weight 1.
        points: number of points at which masks are compared.
        oversample, importance: see `sample_uncertain_points`.
    """

    empty_weight: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        weights: LossWeights | None = None,
        no_object_weight: float = 0.1,
        points: int = 12544,
        oversample: float = 3.0,
        importance: float = 0.75,
    ):
        super().__init__()
        class_weights = torch.ones(num_classes + 1)
        class_weights[-1] = no_object_weight
        # Published checkpoints have this buffer. It is saved but not used: a checkpoint must not change the losses.
        self.register_buffer("empty_weight", class_weights)
        self.no_object_weight = no_object_weight
        self.weights = weights or LossWeights()
        self.points, self.oversample, self.importance = points, oversample, importance

    def compute_normalizers(self, mask_counts: Sequence[int], queries: int) -> LossNormalizers:
        """Return the divisors of a batch on one process.

        Args:
            mask_counts: number of true masks of each image.
            queries: Q.
        """
        matched = sum(min(queries, count) for count in mask_counts)
        unmatched = len(mask_counts) * queries - matched
        return LossNormalizers(max(1.0, float(sum(mask_counts))), matched + self.no_object_weight * unmatched)

    def forward(
        self, predictions: Sequence[Prediction], targets: Sequence[Targets], normalizers: LossNormalizers
    ) -> dict[str, Tensor]:
        """Return the weighted losses by name.

        Args:
            predictions: of each supervised block, the final one last.
            targets: of each image.
            normalizers: of the batch to which these images belong.
        Returns:
            ``loss_ce``, ``loss_mask`` and ``loss_dice`` of the last prediction, and the same with the suffixes ``_0``,
            ``_1``, … for the earlier ones.
        """
        losses = self._compute_losses(predictions[-1], targets, normalizers)
        for index, prediction in enumerate(predictions[:-1]):
            early = self._compute_losses(prediction, targets, normalizers)
            losses |= {f"{name}_{index}": value for name, value in early.items()}
        return losses

    def _compute_losses(
        self, prediction: Prediction, targets: Sequence[Targets], normalizers: LossNormalizers
    ) -> dict[str, Tensor]:
        matches = [
            match(labels, masks, target, self.weights, self.points)
            for labels, masks, target in zip(*prediction, targets, strict=True)
        ]
        label = self._compute_label_loss(prediction.class_logits, targets, matches)
        mask, dice = self._compute_mask_losses(prediction.mask_logits, targets, matches)
        return {
            "loss_ce": self.weights.label * (label / normalizers.label_weight),
            "loss_mask": self.weights.mask * mask / normalizers.masks,
            "loss_dice": self.weights.dice * dice / normalizers.masks,
        }

    def _compute_label_loss(
        self, class_logits: Tensor, targets: Sequence[Targets], matches: Sequence[tuple[Tensor, Tensor]]
    ) -> Tensor:
        """Return the weighted sum of the cross-entropy over all queries."""
        no_object = class_logits.shape[2] - 1
        labels = class_logits.new_full(class_logits.shape[:2], no_object, dtype=torch.int64)  # [B,Q]
        for row, target, (queries, masks) in zip(labels, targets, matches, strict=True):
            row[queries] = target.labels[masks]
        weights = torch.ones_like(self.empty_weight)
        weights[-1] = self.no_object_weight
        return F.cross_entropy(class_logits.float().flatten(0, 1), labels.flatten(), weights, reduction="sum")

    def _compute_mask_losses(
        self, mask_logits: Tensor, targets: Sequence[Targets], matches: Sequence[tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Return the sums over true masks of binary cross-entropy and dice, at points of uncertain predictions."""
        matched = torch.cat([masks[queries] for masks, (queries, _) in zip(mask_logits, matches, strict=True)])
        if not len(matched):  # nothing is labelled, but each parameter still needs a gradient
            zero = mask_logits.float().sum() * 0.0
            return zero, zero
        matched = matched.float()  # [M,h,w]
        points = sample_uncertain_points(matched, self.points, self.oversample, self.importance)  # [M,P,2]
        logits = sample_points(matched, points)  # [M,P]
        with torch.no_grad():
            true_masks = torch.cat([target.masks[m] for target, (_, m) in zip(targets, matches, strict=True)])
            truth = sample_points(true_masks.float(), points)  # [M,P]
        mask = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(1).sum()
        share = logits.sigmoid()
        dice = 1 - (2 * (share * truth).sum(1) + 1) / (share.sum(1) + truth.sum(1) + 1)
        return mask, dice.sum()


@torch.no_grad()
def match(
    class_logits: Tensor, mask_logits: Tensor, targets: Targets, weights: LossWeights, points: int
) -> tuple[Tensor, Tensor]:
    """Assign a query to each true mask of one image at the lowest total cost.

    Args:
        class_logits: [Q,C+1].
        mask_logits: [Q,h,w].
        targets: T true masks.
        weights: of the costs.
        points: number of random points at which all masks are compared.
    Returns:
        Queries [K] and true masks [K], int64 on the CPU, K = min(Q,T).
    """
    locations = torch.rand(1, points, 2, device=mask_logits.device)
    predicted = sample_points(mask_logits.float(), locations)  # [Q,P]
    truth = sample_points(targets.masks.float(), locations)  # [T,P]
    cost = (
        -weights.label * class_logits.float().softmax(-1)[:, targets.labels]
        + weights.mask * cross_entropy_cost(predicted, truth)
        + weights.dice * dice_cost(predicted, truth)
    )  # [Q,T]
    from scipy.optimize import linear_sum_assignment  # slow to import, and only training needs it

    # The trainer reports a loss that is NaN, with more context than an error raised here.
    queries, masks = linear_sum_assignment(cost.nan_to_num(0.0, 0.0, 0.0).cpu().numpy())
    return torch.from_numpy(queries), torch.from_numpy(masks)


def cross_entropy_cost(logits: Tensor, truth: Tensor) -> Tensor:
    """Return the mean binary cross-entropy of each pair, [Q,T], for logits [Q,P] and truth [T,P] in [0,1]."""
    # -log σ(x) = softplus(-x) and -log(1-σ(x)) = softplus(x)
    positive, negative = F.softplus(-logits), F.softplus(logits)
    return (positive @ truth.T + negative @ (1 - truth).T) / logits.shape[1]


def dice_cost(logits: Tensor, truth: Tensor) -> Tensor:
    """Return one minus the dice coefficient of each pair, smoothed by 1; shapes as in `cross_entropy_cost`."""
    share = logits.sigmoid()
    return 1 - (2 * share @ truth.T + 1) / (share.sum(1)[:, None] + truth.sum(1)[None] + 1)


def sample_points(maps: Tensor, points: Tensor) -> Tensor:
    """Read maps at points bilinearly. Maps are 0 outside, which affects points within half a pixel of the border.

    Args:
        maps: [M,H,W].
        points: [M,P,2] or [1,P,2] in [0,1], x before y; (0, 0) and (1, 1) are corners of the map.
    Returns:
        [M,P]
    """
    if not len(maps):
        return maps.new_zeros(0, points.shape[1])
    if len(points) == 1 and len(maps) > 1:  # shared points: the maps become the channels of one image
        return F.grid_sample(maps[None], 2 * points[:, None] - 1, align_corners=False)[0, :, 0]
    return F.grid_sample(maps[:, None], 2 * points[:, :, None] - 1, align_corners=False)[:, 0, :, 0]


@torch.no_grad()
def sample_uncertain_points(logits: Tensor, count: int, oversample: float, importance: float) -> Tensor:
    """Draw points of each mask, most of them where it is least certain (PointRend, arXiv 1912.08193).

    Args:
        logits: [M,h,w].
        count: P, points per mask.
        oversample: number of candidates drawn per point, >= 1.
        importance: share of the points, in [0,1], that are the least certain candidates; the others are uniform.
    Returns:
        [M,P,2] in [0,1], x before y.
    """
    masks, device = len(logits), logits.device
    candidates = torch.rand(masks, int(count * oversample), 2, device=device)
    uncertain = int(importance * count)
    uncertainty = -sample_points(logits, candidates).abs()  # [M,P·oversample]
    index = uncertainty.topk(uncertain, dim=1).indices  # [M,uncertain]
    least_certain = candidates.gather(1, index[..., None].expand(-1, -1, 2))
    return torch.cat([least_certain, torch.rand(masks, count - uncertain, 2, device=device)], dim=1)
