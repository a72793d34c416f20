"""Metrics as plain text, for the log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tabulate import tabulate

HEADLINE = ("pAcc", "mAcc", "fwIoU", "mIoU", "mAcc_all_classes", "mIoU_all_classes")


def format_table(metrics: Mapping[str, Any]) -> str:
    """The numbers of ``segmentation_metrics``: the means, the paper's means, and one row per class.

    A dash stands where there was nothing to measure.
    """
    paper = metrics["paper"]
    means = [
        ["", *HEADLINE],
        ["this evaluation", *(_percent(metrics[name]) for name in HEADLINE)],
        ["paper's formulas", *(_percent(paper[name]) if name in paper else "" for name in HEADLINE)],
    ]
    rows = [
        [name, _percent(values["IoU"]), _percent(values["accuracy"]), values["pixels"]]
        for name, values in metrics["per_class"].items()
    ]
    # Numbers come formatted, and a class may be named "1e5": tabulate is to change neither.
    return "\n\n".join(
        (
            tabulate(means, headers="firstrow", disable_numparse=True, stralign="right"),
            tabulate(
                rows,
                headers=["class", "IoU", "accuracy", "pixels"],
                disable_numparse=True,
                colalign=("left", "right", "right", "right"),
            ),
        )
    )


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
