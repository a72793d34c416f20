"""Our numbers beside those of the paper's Tables 3 and 4."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from tabulate import tabulate

from cliptrase_d2.evaluation.metrics import HEADLINE

EVALUATED = "evaluated"
CSV_COLUMNS = ("benchmark", "data_set", "system", "metric", "ours", "published", "difference", "status")


@dataclass(frozen=True)
class Entry:
    """One system on one benchmark.

    Attributes:
        benchmark: as the paper prints it.
        dataset: as registered.
        system: of ``TEST.METHODS``.
        status: ``EVALUATED``, or why there are no numbers.
        ours: metric -> percent, by the rules of the published script; empty where it was not evaluated.
        published: metric -> percent; empty where the paper has no number.
    """

    benchmark: str
    dataset: str
    system: str
    status: str
    ours: Mapping[str, float | None] = field(default_factory=dict)
    published: Mapping[str, float] = field(default_factory=dict)


def with_averages(entries: Sequence[Entry], count: int) -> list[Entry]:
    """The entries, and a mean over benchmarks for every system of which all are there.

    Args:
        entries: of all benchmarks and systems.
        count: benchmarks that the paper averages; only those with published numbers are counted.
    """
    systems = dict.fromkeys(entry.system for entry in entries)
    return [*entries, *(mean for system in systems for mean in _average(entries, system, count))]


def _average(entries: Sequence[Entry], system: str, count: int) -> Iterator[Entry]:
    own = [entry for entry in entries if entry.system == system and entry.published]
    if len(own) != count or any(entry.status != EVALUATED or None in entry.ours.values() for entry in own):
        return
    ours = {metric: fmean(entry.ours[metric] or 0.0 for entry in own) for metric in HEADLINE}
    published = {metric: fmean(entry.published[metric] for entry in own) for metric in HEADLINE}
    yield Entry("average", "", system, EVALUATED, ours, published)


def markdown_table(entries: Sequence[Entry]) -> str:
    """A row for each entry: ours / the paper's / the difference, in percent; without numbers, why."""
    rows = []
    for entry in entries:
        cells = [_cell(entry, metric) for metric in HEADLINE] if entry.ours else [entry.status, *[""] * 3]
        rows.append([entry.benchmark, entry.system, *cells])
    alignment = ("left", "left", *["right"] * len(HEADLINE))
    headers = ["benchmark", "system", *HEADLINE]
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True, colalign=alignment)


def csv_table(entries: Sequence[Entry]) -> str:
    """A line for every number, with ``CSV_COLUMNS``; empty where there is none."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for entry in entries:
        for metric in HEADLINE:
            ours, published = entry.ours.get(metric), entry.published.get(metric)
            numbers = (_shown(ours), _shown(published), _difference(ours, published))
            writer.writerow([entry.benchmark, entry.dataset, entry.system, metric, *numbers, entry.status])
    return text.getvalue()


def _cell(entry: Entry, metric: str) -> str:
    ours, published = entry.ours.get(metric), entry.published.get(metric)
    if published is None:
        return _shown(ours) or "-"
    return f"{_shown(ours) or '-'} / {_shown(published)} / {_difference(ours, published) or '-'}"


def _shown(percent: float | None) -> str:
    return "" if percent is None else f"{percent:.2f}"


def _difference(ours: float | None, published: float | None) -> str:
    return "" if ours is None or published is None else f"{ours - published:+.2f}"
