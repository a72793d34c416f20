"""Results that were written down before, and whether they came again (TEST.EXPECTED_RESULTS)."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from tabulate import tabulate

from cliptrase_d2.evaluation.summary import Results, Run
from cliptrase_d2.utils.errors import InputError

logger = logging.getLogger(__name__)
_KEY = "TEST.EXPECTED_RESULTS"
_FORM = "[task, metric, percent, tolerance], such as ['sem_seg', 'mIoU', 25.0, 0.5]"


class Expectation(NamedTuple):
    """One entry.

    Attributes:
        task: what the entry calls the evaluation.
        run: the evaluation.
        metric: its number.
        percent: expected.
        tolerance: largest difference, in percent points.
    """

    task: str
    run: Run
    metric: str
    percent: float
    tolerance: float


def task_names(runs: Iterable[Run]) -> dict[str, Run]:
    """What the evaluations may be called: ``[<data set>/][<system>/]sem_seg``.

    A part in brackets can be left out where all evaluations have it in common.
    """
    runs = list(runs)
    names: dict[str, Run] = {}
    for run in runs:
        datasets, systems = [f"{run.dataset}/"], [f"{run.system}/" if run.system else ""]
        datasets += [""] if len({other.dataset for other in runs}) == 1 else []
        systems += [""] if len({other.system for other in runs}) == 1 else []
        names |= {f"{dataset}{system}sem_seg": run for dataset in datasets for system in systems}
    return names


def read_expectations(entries: Sequence[object], metrics: Mapping[Run, Sequence[str]]) -> list[Expectation]:
    """Check the entries, which are Detectron2's: a list of ``[task, metric, percent, tolerance]``.

    Args:
        entries: as written.
        metrics: every evaluation with the names of its numbers.
    Raises:
        InputError: an entry of another form, or one that names nothing that is evaluated.
    """
    names = task_names(metrics)
    expectations = []
    for entry in entries:
        task, metric, percent, tolerance = _checked(entry)
        if task not in names:
            raise _nothing_of_that_name(f"the task {task!r}", task, list(names))
        if metric not in metrics[names[task]]:
            raise _nothing_of_that_name(f"the metric {metric!r}", metric, metrics[names[task]])
        expectations.append(Expectation(task, names[task], metric, percent, tolerance))
    return expectations


def verify(expectations: Sequence[Expectation], results: Results) -> list[Expectation]:
    """Log whether all came as expected, with a table of those that did not, which are returned.

    A number that is not there to score, NaN, never came as expected.
    """
    failed = [one for one in expectations if not abs(results[one.run][one.metric] - one.percent) <= one.tolerance]
    if failed:
        rows = [
            [one.task, one.metric, *map(_shown, (one.percent, one.tolerance, results[one.run][one.metric]))]
            for one in failed
        ]
        headers = ["task", "metric", "expected", "tolerance", "got"]
        alignment = ("left", "left", "right", "right", "right")
        table = tabulate(rows, headers=headers, disable_numparse=True, colalign=alignment)
        logger.error("Not as expected, in percent:\n%s", table)
    elif expectations:
        logger.info("As expected: %d of %d results (%s).", len(expectations), len(expectations), _KEY)
    return failed


def _checked(entry: object) -> tuple[str, str, float, float]:
    if isinstance(entry, list | tuple) and len(entry) == 4:
        task, metric, percent, tolerance = entry
        if all(isinstance(name, str) for name in (task, metric)) and all(map(_is_number, (percent, tolerance))):
            if tolerance >= 0:
                return task, metric, percent, tolerance
            raise InputError(_KEY, f"the tolerance {tolerance} in {entry!r}", "Correct it.", allowed="0 or more")
    raise InputError(_KEY, f"the entry {entry!r}", "Write it in this form.", allowed=_FORM)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _nothing_of_that_name(got: str, name: str, known: Sequence[str]) -> InputError:
    by_small_letters = {other.lower(): other for other in known}
    close = difflib.get_close_matches(name.lower(), by_small_letters, n=1)
    fix = f"Did you mean {by_small_letters[close[0]]!r}?" if close else "Name one of these."
    allowed = f"{', '.join(known)}; or {_KEY} [], which expects nothing"
    return InputError(_KEY, f"{got}, which names nothing that is evaluated", fix, allowed=allowed)


def _shown(value: float) -> str:
    return f"{value:.8g}"  # enough digits to see a difference that is smaller than the tables'
