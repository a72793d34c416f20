"""The losses of mask classification: class, mask and dice of matched queries (MaskFormer, Mask2Former, SAN)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cliptrase_d2.san.matcher import LossWeights, Targets, match
from cliptrase_d2.san.points import sample_points, uncertain_points


@dataclass(frozen=True)
class Totals:
    """What sums over a batch are divided by; of the whole batch, if a step takes it in parts.

    Attributes:
        masks: true masks, the mean over processes, at least 1.
        label_weight: sum of the class weights of all queries.
    """

    masks: float
    label_weight: float


@dataclass(frozen=True)
class Prediction:
    """What one decoded block says.

    Attributes:
        class_logits: [B,Q,C+1], the last for "no object".
        mask_logits: [B,Q,h,w].
    """

    class_logits: Tensor
    mask_logits: Tensor


class Criterion(nn.Module):
    """Matches queries to true masks and sums up what they got wrong.

    Args:
        num_classes: C.
        weights: of the three losses, and of the costs of matching.
        no_object_weight: what a query that is matched to nothing counts in the class loss, where another counts 1.
        points: at which masks are compared.
        oversample, importance: see `points.uncertain_points`.
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
        self.register_buffer("empty_weight", class_weights)  # the name that published checkpoints have
        self.no_object_weight = no_object_weight  # of the configuration, whatever a checkpoint says
        self.weights = weights or LossWeights()
        self.points, self.oversample, self.importance = points, oversample, importance

    def totals(self, masks_of_images: Sequence[int], queries: int) -> Totals:
        """The divisors of a batch, on one process.

        Args:
            masks_of_images: true masks of every image.
            queries: Q.
        """
        matched = sum(min(queries, count) for count in masks_of_images)
        unmatched = len(masks_of_images) * queries - matched
        return Totals(max(1.0, float(sum(masks_of_images))), matched + self.no_object_weight * unmatched)

    def forward(
        self, predictions: Sequence[Prediction], targets: Sequence[Targets], totals: Totals
    ) -> dict[str, Tensor]:
        """Weighted losses by name: ``loss_ce``, ``loss_mask``, ``loss_dice`` of the last prediction, and the same
        with ``_0``, ``_1``, … of those before it.

        Args:
            predictions: of every supervised block, the result last.
            targets: of every image.
            totals: of the batch that these images are of.
        """
        losses = self._losses(predictions[-1], targets, totals)
        for index, prediction in enumerate(predictions[:-1]):
            early = self._losses(prediction, targets, totals)
            losses |= {f"{name}_{index}": value for name, value in early.items()}
        return losses

    def _losses(self, prediction: Prediction, targets: Sequence[Targets], totals: Totals) -> dict[str, Tensor]:
        matched = [
            match(labels, masks, truth, self.weights, self.points)
            for labels, masks, truth in zip(prediction.class_logits, prediction.mask_logits, targets, strict=True)
        ]
        label = self._label_loss(prediction.class_logits, targets, matched) / totals.label_weight
        mask, dice = self._mask_losses(prediction.mask_logits, targets, matched)
        return {
            "loss_ce": self.weights.label * label,
            "loss_mask": self.weights.mask * mask / totals.masks,
            "loss_dice": self.weights.dice * dice / totals.masks,
        }

    def _label_loss(
        self, class_logits: Tensor, targets: Sequence[Targets], matched: Sequence[tuple[Tensor, Tensor]]
    ) -> Tensor:
        """Weighted sum of the cross-entropy over all queries."""
        wanted = class_logits.new_full(class_logits.shape[:2], self.empty_weight.numel() - 1, dtype=torch.int64)
        for row, truth, (queries, masks) in zip(wanted, targets, matched, strict=True):
            row[queries.to(row.device)] = truth.labels[masks.to(truth.labels.device)]
        weights = torch.ones_like(self.empty_weight)
        weights[-1] = self.no_object_weight
        return F.cross_entropy(class_logits.float().flatten(0, 1), wanted.flatten(), weights, reduction="sum")

    def _mask_losses(
        self, mask_logits: Tensor, targets: Sequence[Targets], matched: Sequence[tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Sums over true masks of binary cross-entropy and dice, at points of the masks' own doubt."""
        found = torch.cat([masks[q.to(masks.device)] for masks, (q, _) in zip(mask_logits, matched, strict=True)])
        if not len(found):  # nothing is labelled; the sum keeps the graph whole
            nothing = mask_logits.float().sum() * 0.0
            return nothing, nothing
        found = found.float()  # [M,h,w]
        where = uncertain_points(found, self.points, self.oversample, self.importance)  # [M,P,2]
        logits = sample_points(found, where)  # [M,P]
        with torch.no_grad():
            chosen = [truth.masks[m.to(truth.masks.device)] for truth, (_, m) in zip(targets, matched, strict=True)]
            parts = where.split([len(part) for part in chosen])
            pairs = [(part.float(), at) for part, at in zip(chosen, parts, strict=True) if len(part)]
            truth = torch.cat([sample_points(part, at) for part, at in pairs])  # [M,P]
        mask = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(1).sum()
        share = logits.sigmoid()
        dice = 1 - (2 * (share * truth).sum(1) + 1) / (share.sum(1) + truth.sum(1) + 1)
        return mask, dice.sum()
