from __future__ import annotations

import logging
import re
from typing import Any

import pytest

from cliptrase_d2.evaluation.expected import Expectation, read_expectations, task_names, verify
from cliptrase_d2.evaluation.summary import Run
from cliptrase_d2.utils.errors import InputError

VOC = Run("", "voc")
METRICS = {VOC: ["mIoU", "pAcc", "mIoU-things"]}


def runs(systems: str, datasets: str) -> list[Run]:
    return [Run(system, dataset) for system in systems.split(",") for dataset in datasets.split(",")]


@pytest.mark.parametrize(
    ("systems", "datasets", "names"),
    [
        ("", "voc", "sem_seg voc/sem_seg"),
        ("", "voc,ade", "voc/sem_seg ade/sem_seg"),
        ("clip", "voc", "sem_seg voc/sem_seg clip/sem_seg voc/clip/sem_seg"),
        ("clip,sclip", "voc", "clip/sem_seg sclip/sem_seg voc/clip/sem_seg voc/sclip/sem_seg"),
        ("clip,sclip", "a,b", "a/clip/sem_seg a/sclip/sem_seg b/clip/sem_seg b/sclip/sem_seg"),
        ("clip,sclip", "clip", "clip/sem_seg sclip/sem_seg clip/clip/sem_seg clip/sclip/sem_seg"),
    ],
)
def test_a_task_names_data_set_and_system_where_there_are_several(systems: str, datasets: str, names: str) -> None:
    found = task_names(runs(systems, datasets))
    assert set(found) == set(names.split())
    for name, run in found.items():
        assert set(name.split("/")[:-1]) <= {run.system, run.dataset}


def test_a_system_wins_its_name_from_a_data_set_that_is_called_alike() -> None:
    assert task_names(runs("clip,sclip", "clip"))["sclip/sem_seg"] == Run("sclip", "clip")
    assert task_names(runs("clip", "clip,voc"))["clip/sem_seg"] == Run("clip", "clip")


def test_entries_are_read() -> None:
    entries = [["sem_seg", "mIoU", 25.0, 0.5], ("voc/sem_seg", "mIoU-things", 40, 0)]
    assert read_expectations(entries, METRICS) == [
        Expectation("sem_seg", VOC, "mIoU", 25.0, 0.5),
        Expectation("voc/sem_seg", VOC, "mIoU-things", 40, 0),
    ]


@pytest.mark.parametrize(
    ("entry", "got", "allowed", "fix"),
    [
        (["semseg", "mIoU", 1.0, 1.0], "the task 'semseg'", "voc/sem_seg, sem_seg", "Did you mean 'sem_seg'?"),
        (["ade/sem_seg", "mIoU", 1.0, 1.0], "the task 'ade/sem_seg'", "voc/sem_seg", "Did you mean"),
        (["bbox", "AP", 1.0, 1.0], "the task 'bbox'", "or TEST.EXPECTED_RESULTS []", "Name one of these."),
        (["sem_seg", "miou", 1.0, 1.0], "the metric 'miou'", "mIoU, pAcc, mIoU-things", "Did you mean 'mIoU'?"),
        (["sem_seg", "mIoU-stuff", 1.0, 1.0], "the metric 'mIoU-stuff'", "mIoU-things", ""),
        (["sem_seg", "mIoU", 1.0], "the entry ['sem_seg', 'mIoU', 1.0]", "[task, metric, percent, tolerance]", ""),
        (["sem_seg", "mIoU", "1.0", 1.0], "the entry", "[task, metric, percent, tolerance]", ""),
        (["sem_seg", "mIoU", True, 1.0], "the entry", "[task, metric, percent, tolerance]", ""),
        ([["sem_seg"], "mIoU", 1.0, 1.0], "the entry", "[task, metric, percent, tolerance]", ""),
        ("sem_seg", "the entry 'sem_seg'", "[task, metric, percent, tolerance]", ""),
        (["sem_seg", "mIoU", 1.0, -1.0], "the tolerance -1.0", "0 or more", ""),
    ],
)
def test_what_cannot_be_is_refused(entry: Any, got: str, allowed: str, fix: str) -> None:
    with pytest.raises(InputError) as caught:
        read_expectations([entry], METRICS)
    error = caught.value
    assert error.where == "TEST.EXPECTED_RESULTS"
    assert got in error.got
    assert allowed in error.allowed
    assert fix in error.fix


@pytest.mark.parametrize(
    ("percent", "tolerance", "got", "holds"),
    [
        (25.0, 0.5, 25.5, True),
        (25.0, 0.5, 24.5, True),
        (25.0, 0.5, 25.51, False),
        (25.0, 0, 25.0, True),
        (25.0, 0, 25.0001, False),
        (25.0, 100, float("nan"), False),
        (25.0, float("inf"), float("nan"), False),
        (float("nan"), 100, 25.0, False),
    ],
)
def test_a_result_holds_within_the_tolerance_and_never_if_it_is_nan(
    percent: float, tolerance: float, got: float, holds: bool
) -> None:
    expectation = Expectation("sem_seg", VOC, "mIoU", percent, tolerance)
    assert verify([expectation], {VOC: {"mIoU": got}}) == ([] if holds else [expectation])


def test_one_line_says_that_all_hold(caplog: pytest.LogCaptureFixture) -> None:
    expectations = read_expectations([["sem_seg", "mIoU", 25.0, 0.5], ["sem_seg", "pAcc", 60.0, 0.5]], METRICS)
    with caplog.at_level(logging.INFO):
        assert verify(expectations, {VOC: {"mIoU": 25.2, "pAcc": 59.9}}) == []
    assert [record.getMessage() for record in caplog.records] == [
        "As expected: 2 of 2 results (TEST.EXPECTED_RESULTS)."
    ]


def test_all_that_deviate_stand_in_one_table(caplog: pytest.LogCaptureFixture) -> None:
    entries = [["sem_seg", "mIoU", 25.0, 0.5], ["sem_seg", "pAcc", 60.0, 0.5], ["sem_seg", "mIoU-things", 8.0, 0.0]]
    with caplog.at_level(logging.INFO):
        verify(read_expectations(entries, METRICS), {VOC: {"mIoU": 24.0, "pAcc": 60.0, "mIoU-things": 8.0001}})
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    rows = [line.split() for line in record.getMessage().splitlines()[1:] if not re.fullmatch("[- ]+", line)]
    assert rows == [
        ["task", "metric", "expected", "tolerance", "got"],
        ["sem_seg", "mIoU", "25", "0.5", "24"],
        ["sem_seg", "mIoU-things", "8", "0", "8.0001"],
    ]


def test_nothing_expected_nothing_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert verify([], {}) == []
    assert not caplog.records
