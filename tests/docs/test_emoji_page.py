"""The tables of docs/emoji.md are those of RESULTS.md."""

from __future__ import annotations

from tests.docs.pages import ROOT, read_table
from tools.make_results_table import TABLES

PAGE = (ROOT / "docs" / "emoji.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "RESULTS.md").read_text(encoding="utf-8")


def _read_metric(table: str, metric: str = "mIoU") -> dict[str, str]:
    """Return a metric of every method in a table of RESULTS.md."""
    section = RESULTS.partition(f"\n## {TABLES[table].title}\n")[2]
    header, *rows = read_table(section, "| data set |", keep_header=True)
    return {row[1]: row[header.index(metric)] for row in rows}


def _name(method: str, *, clusters: bool) -> str:
    if method == "cliptrase":
        return "cliptrase" if clusters else "cliptrase_scr"
    return f"{method}+clusters" if clusters else method


def test_all_methods_on_seed_2() -> None:
    whole, windows = _read_metric("seed2"), _read_metric("seed2_slide")
    *dense, plus = read_table(PAGE, "| Method | Whole |")
    assert plus == ["`cliptrase_plus`", "–", whole["cliptrase_plus"], "–", windows["cliptrase_plus"]]
    assert len(dense) == 13
    for method, *numbers in dense:
        names = [_name(method.strip("`"), clusters=clusters) for clusters in (False, True)]
        assert numbers == [numbers[name] for numbers in (whole, windows) for name in names]


def test_the_best_combinations() -> None:
    tables = [_read_metric(name) for name in ("seed2_slide", "seed2_mean", "seed2_pamr", "seed2_pamr_mean")]
    for method, *numbers in read_table(PAGE, "| In windows, with clusters |"):
        assert numbers == [table[_name(method.strip("`"), clusters=True)] for table in tables]


def test_the_best_combinations_on_seed_3() -> None:
    metrics = [_read_metric("seed3_pamr_mean", name) for name in ("pAcc", "mIoU")]
    rows = read_table(PAGE, "| Seed 3, in windows, mean, PAMR |")
    assert {method.strip("`"): numbers for method, *numbers in rows} == {
        method: [numbers[method] for numbers in metrics] for method in metrics[0]
    }
