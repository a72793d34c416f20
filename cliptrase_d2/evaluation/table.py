"""Metrics as plain text, for the log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tabulate import tabulate

from cliptrase_d2.evaluation.metrics import MEANS

_ROWS = 40  # that fit a screen


def format_table(metrics: Mapping[str, Any]) -> str:
    """The numbers of ``segmentation_metrics``: the means, the paper's means, and one row per class.

    A dash stands where there was nothing to measure.
    """
    paper = metrics["paper"]
    means = [
        ["", *MEANS],
        ["this evaluation", *(_percent(metrics[name]) for name in MEANS)],
        ["paper's formulas", *(_percent(paper[name]) if name in paper else "" for name in MEANS)],
    ]
    # Numbers come formatted, and a class may be named "1e5": tabulate is to change neither.
    summary = tabulate(means, headers="firstrow", disable_numparse=True, stralign="right")
    return f"{summary}\n\n{_class_table(metrics['per_class'])}"


def _class_table(per_class: Mapping[str, Mapping[str, Any]]) -> str:
    """One row per class; long vocabularies go on in up to three columns."""
    rows = [
        [name, _percent(values["IoU"]), _percent(values["accuracy"]), values["pixels"]]
        for name, values in per_class.items()
    ]
    columns = min(3, -(-len(rows) // _ROWS))
    height = -(-len(rows) // columns)
    lines = [[cell for row in rows[line::height] for cell in row] for line in range(height)]
    return tabulate(
        lines,
        headers=["class", "IoU", "accuracy", "pixels"] * columns,
        disable_numparse=True,
        colalign=("left", "right", "right", "right") * columns,
    )


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
