from pathlib import Path

import pytest

from cliptrase_d2.evaluation.metrics import HEADLINE, MEANS
from cliptrase_d2.evaluation.object_sizes import size_metric_names
from cliptrase_d2.evaluation.summary import Run, get_common_folder, group_table, headline_table, size_table


def numbers(first: float, **more: float) -> dict[str, float]:
    """Return six means, each one more than the last, and further metrics."""
    return {**{name: first + index for index, name in enumerate(MEANS)}, **more}


def rows(table: str | None) -> list[list[str]]:
    assert table is not None
    return [line.split() for line in table.splitlines() if not line.startswith("-")]


def test_methods_are_grouped_by_data_set() -> None:
    results = {
        Run("clip", "voc"): numbers(1),
        Run("clip", "ade"): numbers(2),
        Run("cliptrase", "voc"): numbers(3),
        Run("cliptrase", "ade"): numbers(4.005),
    }
    assert rows(headline_table(results)) == [
        ["method", "data", "set", *HEADLINE],
        ["clip", "voc", "1.00", "2.00", "3.00", "4.00"],
        ["cliptrase", "voc", "3.00", "4.00", "5.00", "6.00"],
        ["clip", "ade", "2.00", "3.00", "4.00", "5.00"],
        ["cliptrase", "ade", "4.00", "5.00", "6.00", "7.00"],
    ]


def test_column_of_methods_is_left_out_without_methods() -> None:
    results = {Run("", "1e5"): numbers(10), Run("", "voc"): dict.fromkeys(MEANS, float("nan"))}
    assert rows(headline_table(results)) == [
        ["data", "set", *HEADLINE],
        ["1e5", "10.00", "11.00", "12.00", "13.00"],
        ["voc", "-", "-", "-", "-"],
    ]


def test_impossible_methods_follow_with_their_reasons() -> None:
    reason = f"TEST.METHODS: {'a long reason ' * 10}"
    results = {Run("clip", "voc"): numbers(1), Run("clip", "ade"): numbers(2)}
    lines = headline_table(results, {"sclip+mean": reason}).splitlines()
    assert lines[4].split()[:3] == ["sclip+mean", "TEST.METHODS:", "a"]
    assert " ".join(" ".join(lines[4:]).split()[1:]) == reason.strip()
    assert max(map(len, lines)) < 140


def test_groups_have_their_own_table() -> None:
    results = {
        Run("clip", "plain"): numbers(1),
        Run("clip", "emoji"): numbers(1, **{"mIoU-things": 20.0, "pAcc-things": float("nan")}),
        Run("clip", "road"): numbers(1, **{"mIoU-far": 5.0}),
    }
    table = group_table(results)
    assert rows(table) == [
        ["method", "data", "set", "mIoU", "pAcc", "mIoU"],
        ["things", "things", "far"],
        ["clip", "emoji", "20.00", "-"],
        ["clip", "road", "5.00"],
    ]
    assert table is not None
    assert table.splitlines()[-1].endswith("5.00")  # below its own heading
    assert group_table({Run("", "voc"): numbers(1)}) is None


def test_classes_are_in_no_table() -> None:
    plain = numbers(1, pACC=1.0, mACC=2.0, **{"IoU-sky": 20.0, "ACC-sky": 30.0})
    assert group_table({Run("", "voc"): plain}) is None
    table = group_table({Run("", "emoji"): plain | {"mIoU-sky": 40.0}, Run("", "voc"): plain})
    assert rows(table) == [["data", "set", "mIoU"], ["sky"], ["emoji", "40.00"]]


@pytest.mark.parametrize(
    ("runs", "place"),
    [
        ([Run("", "voc")], "out/inference/voc"),
        ([Run("", "voc"), Run("", "ade")], "out/inference/<data set>"),
        ([Run("clip", "voc"), Run("sclip", "voc")], "out/<method>/inference/voc"),
        ([Run("clip", "voc"), Run("sclip", "ade")], "out/<method>/inference/<data set>"),
    ],
)
def test_place_of_results_has_placeholders_for_parts_that_differ(runs: list[Run], place: str) -> None:
    assert get_common_folder("out", runs) == Path(place)


def test_sizes_of_objects_have_their_own_table() -> None:
    nothing = dict.fromkeys(size_metric_names(), float("nan"))
    sizes = {**nothing, "mIoU_small": 5.0, "mAcc_large": 6.0}
    results = {Run("clip", "voc"): numbers(1, **sizes), Run("groups", "voc"): numbers(1, **nothing)}
    assert rows(size_table(results)) == [
        ["method", "data", "set", *["mIoU"] * 3, *["mAcc"] * 3],
        [*["small", "medium", "large"] * 2],
        ["clip", "voc", "5.00", "-", "-", "-", "-", "6.00"],
    ]
    assert size_table({Run("", "voc"): numbers(1, **nothing)}) is None
