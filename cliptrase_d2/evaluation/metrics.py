"""Metrics of semantic segmentation, all computed from one confusion matrix, and their table for the log."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tabulate import tabulate
from torch import Tensor

from cliptrase_d2.evaluation.object_sizes import size_metric_names

HEADLINE = ("pAcc", "mAcc", "fwIoU", "mIoU")
MEANS = (*HEADLINE, "mAcc_all_classes", "mIoU_all_classes")
GROUP_METRICS = ("mIoU", "pAcc")
# Detectron2's names of the same metrics, with the keys of ours.
DETECTRON2_MEANS = {"pACC": "pAcc", "mACC": "mAcc"}
CLASS_METRICS = {"IoU": "IoU", "ACC": "accuracy"}  # of each class; the keys are those of ``per_class``
PAPER_OFFSET = 0.01  # the published script adds it to its denominators, so that an absent class scores 0
_ROWS = 40  # classes in one column of the table, about a screen


def segmentation_metrics(confusion: Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """Return accuracies and intersections over union in percent; None where nothing was scored.

    - ``pAcc``: correct pixels of all pixels; ``fwIoU``: IoU weighted by the pixels of each class.
    - ``mAcc``, ``mIoU``: means over the classes present in the truth (Detectron2's rule).
    - ``mAcc_all_classes``: mAcc of the published script, over all C classes; an absent class scores 0.
    - ``mIoU_all_classes``: mean over all C classes; an absent class scores 0.
    - ``paper``: the four headline metrics by the formulas of the published script, which add 0.01 to the denominators
      of accuracy and IoU; mAcc is over all classes, mIoU over those present.
    - ``per_class``: name -> ``IoU``, ``accuracy`` (None for an absent class) and true ``pixels``.

    Args:
        confusion: [C,C] counts, rows truth, columns prediction; or [C,C+1] with a last column of unknown pixels, which
            are wrong for their true class.
        classes: C names.
    """
    counts = confusion.double()
    correct, true, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)[: len(counts)]  # [C] each
    union = true + predicted - correct
    present = true > 0
    accuracy = correct / true.clamp_min(1)  # [C], 0 where absent
    iou = correct / union.clamp_min(1)  # [C]
    frequency = true / true.sum().clamp_min(1)  # [C]
    paper_accuracy = correct / (true + PAPER_OFFSET)
    paper_iou = correct / (union + PAPER_OFFSET)
    is_scored = bool(present.any())

    def percent(value: Tensor) -> float | None:
        return 100 * float(value) if is_scored else None

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
    """Return the keys of ``group_metrics``."""
    return [f"{metric}-{name}" for name in groups for metric in GROUP_METRICS]


def group_metrics(confusion: Tensor, groups: Mapping[str, Sequence[int]]) -> dict[str, float | None]:
    """Return two metrics of every group of classes in percent; None where the truth has none of its classes.

    - ``mIoU-<group>``: mean IoU over the group's classes present in the truth. A pixel of another class that is
      predicted as one of them lowers it.
    - ``pAcc-<group>``: correct pixels of all true pixels of the group.

    Args:
        confusion: [C,C] or [C,C+1] counts, as in ``segmentation_metrics``.
        groups: name -> class indices.
    """
    counts = confusion.double()
    correct, true, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)[: len(counts)]  # [C] each
    iou = correct / (true + predicted - correct)  # [C], NaN for a class in neither
    values: list[float | None] = []
    for indices in groups.values():
        present = [index for index in indices if true[index]]
        values.append(100 * float(iou[present].mean()) if present else None)
        values.append(100 * float(correct[present].sum() / true[present].sum()) if present else None)
    return dict(zip(group_metric_names(groups), values, strict=True))


def select_group_metrics(names: Iterable[str]) -> list[str]:
    """Return the names that are keys of ``group_metrics``."""
    return [name for name in names if name.startswith(tuple(f"{metric}-" for metric in GROUP_METRICS))]


def drop_class_metrics(names: Iterable[str]) -> list[str]:
    """Return the names that are not metrics of one class, ``IoU-<class>`` or ``ACC-<class>``."""
    return [name for name in names if not name.startswith(tuple(f"{metric}-" for metric in CLASS_METRICS))]


def named_metrics(report: Mapping[str, Any], groups: Iterable[str]) -> dict[str, float]:
    """Return every metric by our name and by that of Detectron2's evaluator, in percent; NaN where nothing was scored.

    Args:
        report: ``segmentation_metrics``, ``group_metrics`` and perhaps ``size_metrics``.
        groups: names of the groups.
    """
    groups = list(groups)
    values = {name: report[name] for name in (*MEANS, *group_metric_names(groups))}
    values |= {name: report.get(name) for name in size_metric_names(groups)}
    values |= {name: report[ours] for name, ours in DETECTRON2_MEANS.items()}
    for metric, key in CLASS_METRICS.items():
        values |= {f"{metric}-{name}": of_class[key] for name, of_class in report["per_class"].items()}
    # One NaN object, so that equal results compare as equal.
    return {name: math.nan if value is None else value for name, value in values.items()}


def format_table(metrics: Mapping[str, Any]) -> str:
    """Format the result of ``segmentation_metrics``: our means, the paper's, and a row for every class.

    A dash means that nothing was scored.
    """
    paper = metrics["paper"]
    means = [
        ["", *MEANS],
        ["this evaluation", *(_percent(metrics[name]) for name in MEANS)],
        ["paper's formulas", *(_percent(paper[name]) if name in paper else "" for name in MEANS)],
    ]
    # Without disable_numparse, tabulate would reformat the numbers, and classes with names such as "1e5".
    summary = tabulate(means, headers="firstrow", disable_numparse=True, stralign="right")
    rows = [
        [name, _percent(values["IoU"]), _percent(values["accuracy"]), values["pixels"]]
        for name, values in metrics["per_class"].items()
    ]
    columns = min(3, -(-len(rows) // _ROWS))
    height = -(-len(rows) // columns)
    lines = [[cell for row in rows[line::height] for cell in row] for line in range(height)]
    headers = ["class", "IoU", "accuracy", "pixels"] * columns
    alignment = ("left", "right", "right", "right") * columns
    return f"{summary}\n\n{tabulate(lines, headers, disable_numparse=True, colalign=alignment)}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
