"""The numbers of semantic segmentation, all from one confusion matrix."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

HEADLINE = ("pAcc", "mAcc", "fwIoU", "mIoU")
MEANS = (*HEADLINE, "mAcc_all_classes", "mIoU_all_classes")
GROUP_METRICS = ("mIoU", "pAcc")
PAPER_OFFSET = 0.01  # the published script adds it to its denominators, so that an absent class counts 0


def segmentation_metrics(confusion: Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """Accuracies and intersections over union, in percent; None where there is nothing to divide by.

    - ``pAcc``: correct pixels of all; ``fwIoU``: IoU weighted by the pixels of each class.
    - ``mAcc``, ``mIoU``: means over the classes present in the truth (Detectron2's rule).
    - ``mAcc_all_classes``: the published script's mAcc, over all C classes, an absent one counting 0.
    - ``mIoU_all_classes``: mean over all C classes, an absent one counting 0.
    - ``paper``: the four as the published script computes them, 0.01 in the denominators of accuracy and
      IoU included; its mAcc is over all classes, its mIoU over those present.
    - ``per_class``: name -> ``IoU``, ``accuracy`` and true ``pixels``; None for a class that is absent.

    Args:
        confusion: [C,C] counts, rows truth, columns prediction.
        classes: C names.
    """
    counts = confusion.double()
    correct, true, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)  # [C] each
    union = true + predicted - correct
    present = true > 0
    accuracy = correct / true.clamp_min(1)  # [C], 0 where absent
    iou = correct / union.clamp_min(1)  # [C]
    frequency = true / true.sum().clamp_min(1)  # [C]
    paper_accuracy = correct / (true + PAPER_OFFSET)
    paper_iou = correct / (union + PAPER_OFFSET)
    seen = bool(present.any())

    def percent(value: Tensor) -> float | None:
        return 100 * float(value) if seen else None

    pixel_accuracy = percent(correct.sum() / true.sum().clamp_min(1))
    all_classes_accuracy = percent(paper_accuracy.mean())
    return {
        "pAcc": pixel_accuracy,
        "mAcc": percent(accuracy[present].mean()),
        "fwIoU": percent((frequency * iou).sum()),
        "mIoU": percent(iou[present].mean()),
        "mAcc_all_classes": all_classes_accuracy,
        "mIoU_all_classes": percent(iou.mean()),
        "paper": {
            "pAcc": pixel_accuracy,
            "mAcc": all_classes_accuracy,
            "fwIoU": percent((frequency * paper_iou).sum()),
            "mIoU": percent(paper_iou[present].mean()),
        },
        "per_class": {
            name: {
                "IoU": 100 * float(iou[index]) if present[index] else None,
                "accuracy": 100 * float(accuracy[index]) if present[index] else None,
                "pixels": int(confusion[index].sum()),
            }
            for index, name in enumerate(classes)
        },
    }


def group_metric_names(groups: Iterable[str]) -> list[str]:
    """What the numbers of ``group_metrics`` are called."""
    return [f"{kind}-{name}" for name in groups for kind in GROUP_METRICS]


def group_metrics(confusion: Tensor, groups: Mapping[str, Sequence[int]]) -> dict[str, float | None]:
    """Two numbers for every group of classes, in percent; None where none of its classes occurs in the truth.

    - ``mIoU-<group>``: mean IoU over the group's classes present in the truth; a pixel of any other class that is
      taken for one of them counts against it.
    - ``pAcc-<group>``: correct pixels of all true pixels of the group.

    Args:
        confusion: [C,C] counts, rows truth, columns prediction.
        groups: name -> class indices.
    """
    counts = confusion.double()
    correct, true, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)  # [C] each
    iou = correct / (true + predicted - correct)  # [C], NaN where a class is in neither
    numbers: list[float | None] = []
    for indices in groups.values():
        present = [index for index in indices if true[index]]
        numbers.append(100 * float(iou[present].mean()) if present else None)
        numbers.append(100 * float(correct[present].sum() / true[present].sum()) if present else None)
    return dict(zip(group_metric_names(groups), numbers, strict=True))
