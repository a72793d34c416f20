"""Comparison of results with expected ones (TEST.EXPECTED_RESULTS)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from tabulate import tabulate

from cliptrase_d2.evaluation.metrics import CLASS_METRICS, drop_class_metrics
from cliptrase_d2.evaluation.summary import Results, Run
from cliptrase_d2.utils.errors import InputError, suggest

logger = logging.getLogger(__name__)
NamedResults = dict[str, Mapping[str, float]]
_KEY = "TEST.EXPECTED_RESULTS"


class Expectation(NamedTuple):
    """One entry of TEST.EXPECTED_RESULTS.

    Attributes:
        task: name of the evaluation in the entry.
        run: the evaluation.
        metric: name of the metric.
        percent: expected value.
        tolerance: largest allowed difference, in percent points.
    """

    task: str
    run: Run
    metric: str
    percent: float
    tolerance: float


def list_task_names(runs: Iterable[Run]) -> dict[str, Run]:
    """Return every name of every evaluation: ``[<data set>/][<method>/]sem_seg``.

    A part in brackets can be left out if all evaluations share it.
    """
    runs = list(runs)
    names: dict[str, Run] = {}
    for run in runs:
        datasets, methods = [f"{run.dataset}/"], [f"{run.method}/" if run.method else ""]
        datasets += [""] if len({other.dataset for other in runs}) == 1 else []
        methods += [""] if len({other.method for other in runs}) == 1 else []
        names |= {f"{dataset}{method}sem_seg": run for dataset in datasets for method in methods}
    return names


def name_results(results: Results) -> NamedResults:
    """Return the results in the form of Detectron2's ``verify_results``: {task: {metric: percent}}.

    A result appears under each of its names, since TEST.EXPECTED_RESULTS may use any of them.
    """
    return {task: results[run] for task, run in list_task_names(results).items()}


def read_expectations(entries: Sequence[object], metrics: Mapping[Run, Sequence[str]]) -> list[Expectation]:
    """Check the entries, which have Detectron2's form: ``[task, metric, percent, tolerance]``.

    Args:
        entries: value of TEST.EXPECTED_RESULTS.
        metrics: the names of the metrics of every evaluation.
    Raises:
        InputError: an entry of another form, or with an unknown task or metric.
    """
    runs = list_task_names(metrics)
    expectations = []
    for entry in entries:
        match entry:
            case [str(task), str(metric), int() | float() as percent, int() | float() as tolerance] if (
                tolerance >= 0 and bool not in (type(percent), type(tolerance))
            ):
                _check_name("task", task, list(runs))
                _check_name("metric", metric, metrics[runs[task]])
                expectations.append(Expectation(task, runs[task], metric, percent, tolerance))
            case _:
                allowed = "[task, metric, percent, tolerance >= 0], such as ['sem_seg', 'mIoU', 25.0, 0.5]"
                raise InputError(_KEY, f"the entry {entry!r}", "Write it in this form.", allowed)
    return expectations


def verify(expectations: Sequence[Expectation], results: Results) -> list[Expectation]:
    """Return the expectations that the results do not meet, and log a table of them. NaN never meets one."""
    failed = [one for one in expectations if not abs(results[one.run][one.metric] - one.percent) <= one.tolerance]
    if failed:
        rows = [
            # Eight digits show a difference that is too small for the other tables.
            [one.task, one.metric, *(f"{x:.8g}" for x in (one.percent, one.tolerance, results[one.run][one.metric]))]
            for one in failed
        ]
        headers = ["task", "metric", "expected", "tolerance", "got"]
        alignment = ("left", "left", "right", "right", "right")
        table = tabulate(rows, headers, disable_numparse=True, colalign=alignment)
        logger.error("Not as expected, in percent:\n%s", table)
    elif expectations:
        logger.info("As expected: %d of %d results (%s).", len(expectations), len(expectations), _KEY)
    return failed


def _check_name(kind: str, name: str, names: Sequence[str]) -> None:
    if name not in names:
        fix = suggest(name, names, f"Name one of these, or set {_KEY} [].")
        allowed = drop_class_metrics(names)
        allowed += [f"{metric}-<class>" for metric in CLASS_METRICS] if len(allowed) < len(names) else []
        raise InputError(_KEY, f"the unknown {kind} {name!r}", fix, allowed=", ".join(allowed))
