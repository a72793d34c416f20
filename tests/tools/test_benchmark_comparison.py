import csv
import io

from cliptrase_d2.evaluation.metrics import HEADLINE
from tools.benchmark_comparison import (
    CSV_COLUMNS,
    EVALUATED,
    Entry,
    add_averages,
    csv_table,
    markdown_matrix,
    markdown_table,
)


def numbers(first: float) -> dict[str, float]:
    return {metric: first + index for index, metric in enumerate(HEADLINE)}


A = Entry("A", "a_val", "clip", EVALUATED, numbers(10), numbers(11.25))
B = Entry("B", "b_val", "clip", EVALUATED, numbers(20), numbers(18))
UNPUBLISHED = Entry("C", "c_val", "clip", EVALUATED, numbers(90))
MISSING = Entry("B", "b_val", "clip", "missing: python prepare.py", {}, numbers(18))
PARTIAL = Entry("B", "b_val", "clip", f"{EVALUATED} on 1 of 2 images", numbers(20), numbers(18))
NOT_SCORED = Entry("A", "a_val", "clip", EVALUATED, dict.fromkeys(HEADLINE), numbers(1))


def test_markdown_cells_have_ours_the_papers_and_the_difference() -> None:
    lines = markdown_table([A, UNPUBLISHED, MISSING, NOT_SCORED]).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert rows[0] == ["benchmark", "method", *HEADLINE]
    assert rows[2][:3] == ["A", "clip", "10.00 / 11.25 / -1.25"]
    assert rows[3][2:] == ["90.00", "91.00", "92.00", "93.00"]
    assert rows[4] == ["B", "clip", MISSING.status, "", "", ""]
    assert rows[5][2] == "- / 1.00 / -"


def test_csv_has_a_line_for_every_number() -> None:
    rows = list(csv.DictReader(io.StringIO(csv_table([A, MISSING]))))
    assert len(rows) == 8
    assert tuple(rows[0]) == CSV_COLUMNS
    assert list(rows[3].values()) == ["A", "a_val", "clip", "mIoU", "13.00", "14.25", "-1.25", EVALUATED]
    assert list(rows[4].values()) == ["B", "b_val", "clip", "pAcc", "", "18.00", "", MISSING.status]


def test_averages_are_over_the_benchmarks_of_the_paper() -> None:
    average = add_averages([A, UNPUBLISHED, B], 2)[-1]
    assert (average.benchmark, average.method) == ("average", "clip")
    assert (average.ours["pAcc"], average.published["pAcc"]) == (15, 14.625)


def test_no_average_without_complete_results() -> None:
    for entries in ([A], [A, MISSING], [A, PARTIAL], [NOT_SCORED, B]):
        assert add_averages(entries, 2) == entries


def test_the_matrix_has_a_row_for_each_method_and_explains_its_marks() -> None:
    other = Entry("B", "", "gem", "not public", {}, {"mIoU": 30.0})
    entries = [*add_averages([A, B], 2), PARTIAL, other]
    lines = markdown_matrix(entries).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert rows[0] == ["method", "A", "B", "average"]
    assert rows[2] == ["clip", "13.00 / 14.25 / -1.25", "23.00 / 21.00 / +2.00 [1]", "18.00 / 17.62 / +0.38"]
    assert rows[3] == ["gem", "", "- / 30.00 / - [2]", ""]
    assert lines[-2:] == [f"- [1] {PARTIAL.status}", "- [2] not public"]


def test_one_metric_is_enough() -> None:
    entries = [Entry(name, "", "gem", EVALUATED, {"mIoU": 20.0}, {"mIoU": 30.0}) for name in "AB"]
    assert add_averages(entries, 2)[-1].published == {"mIoU": 30.0}
    assert len(list(csv.DictReader(io.StringIO(csv_table(entries, ["mIoU"]))))) == 2
