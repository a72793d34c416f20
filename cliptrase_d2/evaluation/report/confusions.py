"""What the worst classes were taken for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

WORST, TAKEN_FOR = 12, 4  # classes that are shown, and confusions of each


@dataclass(frozen=True)
class Confusion:
    """Where the pixels of one class went.

    Attributes:
        index: of the class.
        iou: in percent.
        correct: percent of its pixels that were called by its name.
        taken_for: other classes that most of its pixels were called, with the percent of its pixels.
        wrongly_named: percent of the pixels of this name that are of other classes; 0 where no pixel has it.
        mostly: the class that most of those are of; None where there are none.
    """

    index: int
    iou: float
    correct: float
    taken_for: list[tuple[int, float]]
    wrongly_named: float
    mostly: int | None


def worst_confusions(confusion: np.ndarray, count: int = WORST, others: int = TAKEN_FOR) -> list[Confusion]:
    """The classes with the lowest IoU of those that occur in the truth, the worst first.

    Args:
        confusion: [C,C] counts, rows truth, columns prediction.
        count: classes wanted.
        others: confusions of each, at most; only those of at least one pixel.
    """
    correct, true, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)  # [C] each
    iou = 100 * correct / np.maximum(true + predicted - correct, 1)
    present = np.flatnonzero(true)
    worst = present[np.argsort(iou[present], kind="stable")][:count]
    return [_confusion_of(confusion, int(index), float(iou[index]), others) for index in worst]


def _confusion_of(confusion: np.ndarray, index: int, iou: float, others: int) -> Confusion:
    row, column = confusion[index].copy(), confusion[:, index].copy()
    correct, true, predicted = row[index], row.sum(), column.sum()
    row[index] = column[index] = 0
    order = np.argsort(-row, kind="stable")[:others]
    return Confusion(
        index,
        iou,
        correct=100 * float(correct / true),
        taken_for=[(int(other), 100 * float(row[other] / true)) for other in order if row[other]],
        wrongly_named=100 * float(column.sum() / max(predicted, 1)),
        mostly=int(column.argmax()) if column.any() else None,
    )
