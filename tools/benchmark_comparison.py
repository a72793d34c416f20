"""Tables of our results beside published ones: those of the paper's Tables 3 and 4, or those of other methods."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from tabulate import tabulate

from cliptrase_d2.evaluation.metrics import HEADLINE

EVALUATED, AVERAGE, MEAN_IOU = "evaluated", "average", "mIoU"
CSV_COLUMNS = ("benchmark", "data_set", "method", "metric", "ours", "published", "difference", "status")


@dataclass(frozen=True)
class Entry:
    """One method on one benchmark.

    Attributes:
        benchmark: name in the paper.
        dataset: name of the registered data set; "" if no configuration names one.
        method: its name.
        status: ``EVALUATED``, or the reason why there are no results.
        ours: metric -> percent; empty if not evaluated. Beside the paper's, by the formulas of its script.
        published: metric -> percent; empty if there are no published numbers.
    """

    benchmark: str
    dataset: str
    method: str
    status: str
    ours: Mapping[str, float | None] = field(default_factory=dict)
    published: Mapping[str, float] = field(default_factory=dict)


def add_averages(entries: Sequence[Entry], count: int) -> list[Entry]:
    """Append the mean over the benchmarks of every method that was evaluated on all of them.

    Args:
        entries: of all benchmarks and methods.
        count: number of benchmarks in the published average; entries without published numbers do not count.
    """
    averages = []
    for method in dict.fromkeys(entry.method for entry in entries):
        rows = [entry for entry in entries if entry.method == method and entry.published]
        if (
            rows
            and len(rows) == count
            and all(row.status == EVALUATED and None not in row.ours.values() for row in rows)
        ):
            ours = {metric: fmean(row.ours[metric] or 0.0 for row in rows) for metric in rows[0].published}
            published = {metric: fmean(row.published[metric] for row in rows) for metric in rows[0].published}
            averages.append(Entry(AVERAGE, "", method, EVALUATED, ours, published))
    return [*entries, *averages]


def markdown_table(entries: Sequence[Entry]) -> str:
    """Format a row for each entry: ours / the paper's / the difference, in percent; or its status without results."""
    rows = []
    for entry in entries:
        cells = [_format_cell(*_format_numbers(entry, metric)) for metric in HEADLINE]
        rows.append([entry.benchmark, entry.method, *(cells if entry.ours else [entry.status, "", "", ""])])
    alignment = ("left", "left", *["right"] * len(HEADLINE))
    return tabulate(
        rows, ["benchmark", "method", *HEADLINE], tablefmt="pipe", disable_numparse=True, colalign=alignment
    )


def markdown_matrix(entries: Sequence[Entry]) -> str:
    """Format a row for each method and a column for each benchmark: our mIoU / the published one / the difference.

    A benchmark that was not evaluated, or not completely, has a mark. The marks are explained below the table.
    """
    benchmarks = list(dict.fromkeys(entry.benchmark for entry in entries if entry.benchmark != AVERAGE))
    notes = list(dict.fromkeys(entry.status for entry in entries if entry.status != EVALUATED))
    cells: dict[str, dict[str, str]] = {}
    for entry in entries:
        cell = _format_cell(*_format_numbers(entry, MEAN_IOU))
        mark = "" if entry.status == EVALUATED else f" [{notes.index(entry.status) + 1}]"
        cells.setdefault(entry.method, {})[entry.benchmark] = cell + mark
    columns = [*benchmarks, AVERAGE]
    rows = [[method, *(own.get(column, "") for column in columns)] for method, own in cells.items()]
    alignment = ("left", *["right"] * len(columns))
    table = tabulate(rows, ["method", *columns], tablefmt="pipe", disable_numparse=True, colalign=alignment)
    return "\n".join([table, "", *(f"- [{number}] {note}" for number, note in enumerate(notes, start=1))]).rstrip()


def csv_table(entries: Sequence[Entry], metrics: Sequence[str] = HEADLINE) -> str:
    """Format a line for every number, with the columns ``CSV_COLUMNS``; missing numbers are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for entry in entries:
        for metric in metrics:
            numbers = _format_numbers(entry, metric)
            writer.writerow([entry.benchmark, entry.dataset, entry.method, metric, *numbers, entry.status])
    return text.getvalue()


def _format_numbers(entry: Entry, metric: str) -> tuple[str, str, str]:
    """Format our number, the paper's, and their difference; "" for a missing one."""
    ours, published = entry.ours.get(metric), entry.published.get(metric)
    difference = "" if ours is None or published is None else f"{ours - published:+.2f}"
    return "" if ours is None else f"{ours:.2f}", "" if published is None else f"{published:.2f}", difference


def _format_cell(ours: str, published: str, difference: str) -> str:
    return f"{ours or '-'} / {published} / {difference or '-'}" if published else ours or "-"
