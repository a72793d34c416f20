import logging
import re
from typing import Any

import pytest

from cliptrase_d2.evaluation.expected import Expectation, list_task_names, name_results, read_expectations, verify
from cliptrase_d2.evaluation.summary import Run
from cliptrase_d2.utils.errors import InputError

VOC = Run("", "voc")
METRICS = {VOC: ["mIoU", "pAcc", "mIoU-things"]}


def runs(methods: str, datasets: str) -> list[Run]:
    return [Run(method, dataset) for method in methods.split(",") for dataset in datasets.split(",")]


@pytest.mark.parametrize(
    ("methods", "datasets", "names"),
    [
        ("", "voc", "sem_seg voc/sem_seg"),
        ("", "voc,ade", "voc/sem_seg ade/sem_seg"),
        ("clip", "voc", "sem_seg voc/sem_seg clip/sem_seg voc/clip/sem_seg"),
        ("clip,sclip", "voc", "clip/sem_seg sclip/sem_seg voc/clip/sem_seg voc/sclip/sem_seg"),
        ("clip,sclip", "a,b", "a/clip/sem_seg a/sclip/sem_seg b/clip/sem_seg b/sclip/sem_seg"),
        ("clip,sclip", "clip", "clip/sem_seg sclip/sem_seg clip/clip/sem_seg clip/sclip/sem_seg"),
    ],
)
def test_task_names_have_the_parts_that_differ(methods: str, datasets: str, names: str) -> None:
    tasks = list_task_names(runs(methods, datasets))
    assert set(tasks) == set(names.split())
    for name, run in tasks.items():
        assert set(name.split("/")[:-1]) <= {run.method, run.dataset}


def test_method_takes_precedence_over_a_data_set_of_the_same_name() -> None:
    assert list_task_names(runs("clip,sclip", "clip"))["sclip/sem_seg"] == Run("sclip", "clip")
    assert list_task_names(runs("clip", "clip,voc"))["clip/sem_seg"] == Run("clip", "clip")


def test_entries_are_read() -> None:
    entries = [["sem_seg", "mIoU", 25.0, 0.5], ("voc/sem_seg", "mIoU-things", 40, 0)]
    assert read_expectations(entries, METRICS) == [
        Expectation("sem_seg", VOC, "mIoU", 25.0, 0.5),
        Expectation("voc/sem_seg", VOC, "mIoU-things", 40, 0),
    ]


@pytest.mark.parametrize(
    ("entry", "got", "fix"),
    [
        (["semseg", "mIoU", 1.0, 1.0], "'semseg'", "'sem_seg'"),
        (["bbox", "AP", 1.0, 1.0], "'bbox'", "TEST.EXPECTED_RESULTS []"),
        (["sem_seg", "miou", 1.0, 1.0], "'miou'", "'mIoU'"),
        (["sem_seg", "mIoU-stuff", 1.0, 1.0], "'mIoU-stuff'", ""),
        (["sem_seg", "mIoU", 1.0], "['sem_seg', 'mIoU', 1.0]", ""),
        (["sem_seg", "mIoU", "1.0", 1.0], "'1.0'", ""),
        (["sem_seg", "mIoU", True, 1.0], "True", ""),
        ([["sem_seg"], "mIoU", 1.0, 1.0], "['sem_seg']", ""),
        ("sem_seg", "'sem_seg'", ""),
        (["sem_seg", "mIoU", 1.0, -1.0], "-1.0", ""),
    ],
)
def test_bad_entries_are_rejected(entry: Any, got: str, fix: str) -> None:
    with pytest.raises(InputError) as caught:
        read_expectations([entry], METRICS)
    assert caught.value.where == "TEST.EXPECTED_RESULTS"
    assert got in caught.value.got
    assert fix in caught.value.fix


def test_classes_are_not_listed_one_by_one() -> None:
    names = ["mIoU", "mIoU-things", *(f"{metric}-{index}" for metric in ("IoU", "ACC") for index in range(847))]
    assert read_expectations([["sem_seg", "ACC-846", 1.0, 1.0]], {VOC: names})
    with pytest.raises(InputError, match="'IoU-847'") as caught:
        read_expectations([["sem_seg", "IoU-847", 1.0, 1.0]], {VOC: names})
    assert caught.value.allowed == "mIoU, mIoU-things, IoU-<class>, ACC-<class>"


def test_results_have_every_name_of_their_task() -> None:
    first, second = {"mIoU": 1.0}, {"mIoU": 2.0}
    assert name_results({VOC: first}) == {"sem_seg": first, "voc/sem_seg": first}
    assert name_results({Run("clip", "voc"): first, Run("sclip", "voc"): second}) == {
        "clip/sem_seg": first, "voc/clip/sem_seg": first, "sclip/sem_seg": second, "voc/sclip/sem_seg": second,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("percent", "tolerance", "got", "is_met"),
    [
        (25.0, 0.5, 25.5, True),
        (25.0, 0.5, 24.5, True),
        (25.0, 0.5, 25.51, False),
        (25.0, 0, 25.0, True),
        (25.0, 0, 25.0001, False),
        (25.0, float("inf"), float("nan"), False),
        (float("nan"), 100, 25.0, False),
    ],
)
def test_expectation_is_met_within_its_tolerance_and_never_by_nan(
    percent: float, tolerance: float, got: float, is_met: bool
) -> None:
    expectation = Expectation("sem_seg", VOC, "mIoU", percent, tolerance)
    assert verify([expectation], {VOC: {"mIoU": got}}) == ([] if is_met else [expectation])


def test_met_expectations_are_logged_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    expectations = read_expectations([["sem_seg", "mIoU", 25.0, 0.5], ["sem_seg", "pAcc", 60.0, 0.5]], METRICS)
    with caplog.at_level(logging.INFO):
        assert verify([], {}) == []
        assert verify(expectations, {VOC: {"mIoU": 25.2, "pAcc": 59.9}}) == []
    (message,) = caplog.messages
    assert "2 of 2" in message


def test_failed_expectations_are_logged_in_one_table(caplog: pytest.LogCaptureFixture) -> None:
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
