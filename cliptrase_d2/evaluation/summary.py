"""What several evaluations found, in one table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tabulate import tabulate

from cliptrase_d2.evaluation.evaluator import results_folder
from cliptrase_d2.evaluation.metrics import HEADLINE, MEANS

Results = Mapping["Run", Mapping[str, float]]


class Run(NamedTuple):
    """One evaluation.

    Attributes:
        system: name of the system, "" for the configuration as it stands.
        dataset: as registered.
    """

    system: str
    dataset: str

    def __str__(self) -> str:
        return f"{self.system} on {self.dataset}" if self.system else self.dataset


def headline_table(results: Results) -> str:
    """Four numbers of every evaluation: data set after data set, the systems below each other."""
    return _table(results, HEADLINE)


def group_table(results: Results) -> str | None:
    """The numbers of the groups of classes, for the data sets that have any; None if none has."""
    grouped = {run: numbers for run, numbers in results.items() if set(numbers) - set(MEANS)}
    columns = dict.fromkeys(name for numbers in grouped.values() for name in numbers if name not in MEANS)
    return _table(grouped, list(columns)) if grouped else None


def place_of_results(output_dir: str | Path, runs: Iterable[Run]) -> Path:
    """The folder of all evaluations: what differs between them stands in angle brackets."""
    systems, datasets = (set(names) for names in zip(*runs, strict=True))
    system = systems.pop() if len(systems) == 1 else "<system>"
    return results_folder(Path(output_dir) / system, datasets.pop() if len(datasets) == 1 else "<data set>")


def _table(results: Results, columns: Sequence[str]) -> str:
    datasets = list(dict.fromkeys(run.dataset for run in results))
    runs = sorted(results, key=lambda run: datasets.index(run.dataset))
    rows = [[*run, *(_percent(results[run].get(name)) for name in columns)] for run in runs]
    headers = ["system", "data set", *(name.replace("-", "\n", 1) for name in columns)]  # narrow, for a terminal
    alignment = ["left", "left", *["right"] * len(columns)]
    if not any(run.system for run in runs):
        headers, alignment, rows = headers[1:], alignment[1:], [row[1:] for row in rows]
    # Numbers come formatted, and a data set may be named "1e5": tabulate is to change neither.
    return tabulate(rows, headers=headers, disable_numparse=True, colalign=alignment)


def _percent(value: float | None) -> str:
    """A dash where there was nothing to score, nothing where there is no such group."""
    return "" if value is None else "-" if math.isnan(value) else f"{value:.2f}"
