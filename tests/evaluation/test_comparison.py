from __future__ import annotations

import csv
import io

from cliptrase_d2.evaluation.comparison import EVALUATED, Entry, csv_table, markdown_table, with_averages

METRICS = ("pAcc", "mAcc", "fwIoU", "mIoU")


def numbers(first: float) -> dict[str, float]:
    return {metric: first + index for index, metric in enumerate(METRICS)}


A = Entry("A", "a_val", "clip", EVALUATED, numbers(10), numbers(11.25))
B = Entry("B", "b_val", "clip", EVALUATED, numbers(20), numbers(18))
UNPUBLISHED = Entry("C", "c_val", "clip", EVALUATED, numbers(90))
MISSING = Entry("B", "b_val", "clip", "missing: python prepare.py", {}, numbers(18))


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_each_cell_has_ours_the_papers_and_the_difference() -> None:
    rows = cells(markdown_table([A, UNPUBLISHED, MISSING]))
    assert rows[0] == ["benchmark", "system", *METRICS]
    assert rows[2][:3] == ["A", "clip", "10.00 / 11.25 / -1.25"]
    assert rows[3][2:] == ["90.00", "91.00", "92.00", "93.00"]
    assert rows[4] == ["B", "clip", "missing: python prepare.py", "", "", ""]


def test_nothing_to_score_is_a_dash() -> None:
    entry = Entry("A", "a_val", "clip", EVALUATED, dict.fromkeys(METRICS), numbers(1))
    assert cells(markdown_table([entry]))[2][2] == "- / 1.00 / -"


def test_a_line_of_csv_for_every_number() -> None:
    rows = list(csv.DictReader(io.StringIO(csv_table([A, MISSING]))))
    assert len(rows) == 8
    assert rows[3] == {
        "benchmark": "A",
        "data_set": "a_val",
        "system": "clip",
        "metric": "mIoU",
        "ours": "13.00",
        "published": "14.25",
        "difference": "-1.25",
        "status": EVALUATED,
    }
    assert (rows[4]["ours"], rows[4]["published"], rows[4]["difference"]) == ("", "18.00", "")
    assert rows[4]["status"] == "missing: python prepare.py"


def test_averages_are_over_the_benchmarks_of_the_paper() -> None:
    average = with_averages([A, UNPUBLISHED, B], 2)[-1]
    assert (average.benchmark, average.system) == ("average", "clip")
    assert (average.ours["pAcc"], average.published["pAcc"]) == (15, 14.625)


def test_no_average_while_a_benchmark_is_missing() -> None:
    assert with_averages([A, MISSING], 2) == [A, MISSING]
    assert with_averages([A], 2) == [A]


def test_no_average_over_a_part_of_the_images() -> None:
    part = Entry("B", "b_val", "clip", f"{EVALUATED} on 1 of 2 images", numbers(20), numbers(18))
    assert with_averages([A, part], 2) == [A, part]
