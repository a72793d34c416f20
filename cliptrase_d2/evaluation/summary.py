"""Summary tables of several evaluations."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tabulate import tabulate

from cliptrase_d2.evaluation.evaluator import get_results_folder
from cliptrase_d2.evaluation.metrics import HEADLINE, select_group_metrics
from cliptrase_d2.evaluation.object_sizes import size_metric_names

Results = Mapping["Run", Mapping[str, float]]
_REASON_WIDTH = 60


class Run(NamedTuple):
    """One evaluation.

    Attributes:
        method: name of the method; "" for the configuration itself.
        dataset: as registered.
    """

    method: str
    dataset: str

    def __str__(self) -> str:
        return f"{self.method} on {self.dataset}" if self.method else self.dataset


def headline_table(results: Results, impossible: Mapping[str, str] | None = None) -> str:
    """Format the four headline metrics of every evaluation, grouped by data set.

    Args:
        results: percent by metric.
        impossible: compositions that were left out -> reason. They follow the others, with their reasons.
    """
    return _format_table(results, HEADLINE, impossible or {})


def group_table(results: Results) -> str | None:
    """Format the metrics of the groups of classes; None if no data set has groups."""
    grouped = {run: metrics for run, metrics in results.items() if select_group_metrics(metrics)}
    columns = dict.fromkeys(name for metrics in grouped.values() for name in select_group_metrics(metrics))
    return _format_table(grouped, list(columns)) if grouped else None


def size_table(results: Results) -> str | None:
    """Format the metrics by size of object; None if no evaluation has any."""
    names = size_metric_names()
    counted = {run: metrics for run, metrics in results.items() if not all(math.isnan(metrics[name]) for name in names)}
    return _format_table(counted, names) if counted else None


def get_common_folder(output_dir: str | Path, runs: Iterable[Run]) -> Path:
    """Return the folder of all evaluations, with a placeholder for the method or data set if there are several."""
    methods, datasets = (set(names) for names in zip(*runs, strict=True))
    method = methods.pop() if len(methods) == 1 else "<method>"
    return get_results_folder(Path(output_dir) / method, datasets.pop() if len(datasets) == 1 else "<data set>")


def _format_table(results: Results, columns: Sequence[str], impossible: Mapping[str, str] | None = None) -> str:
    datasets = list(dict.fromkeys(run.dataset for run in results))
    runs = sorted(results, key=lambda run: datasets.index(run.dataset))
    rows = [[*run, *(_percent(results[run].get(name)) for name in columns)] for run in runs]
    headers = ["method", "data set", *(re.sub("[-_]", "\n", name, count=1) for name in columns)]  # narrow
    alignment = ["left", "left", *["right"] * len(columns)]
    if not any(run.method for run in runs):
        headers, alignment, rows = headers[1:], alignment[1:], [row[1:] for row in rows]
    if impossible:
        headers, alignment = [*headers, "impossible because"], [*alignment, "left"]
        rows = [[*row, ""] for row in rows]
        empty = [""] * (1 + len(columns))
        rows += [[name, *empty, textwrap.fill(reason, _REASON_WIDTH)] for name, reason in impossible.items()]
    # Without disable_numparse, tabulate would reformat the numbers, and data sets with names such as "1e5".
    return tabulate(rows, headers, disable_numparse=True, colalign=alignment)


def _percent(value: float | None) -> str:
    """Format a value: a dash if nothing was scored, "" if the data set has no such group."""
    return "" if value is None else "-" if math.isnan(value) else f"{value:.2f}"
