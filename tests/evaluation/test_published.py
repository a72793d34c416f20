from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean

import pytest

from cliptrase_d2.data.benchmarks import BENCHMARKS
from cliptrase_d2.evaluation.metrics import HEADLINE
from cliptrase_d2.evaluation.published import (
    PUBLISHED_PROTOCOL,
    ablation_source,
    published_ablation,
    published_numbers,
    published_source,
)

KEYS = sorted(benchmark.published for benchmark in BENCHMARKS.values() if benchmark.published)


def test_numbers_of_one_benchmark() -> None:
    assert published_numbers("ade847", PUBLISHED_PROTOCOL, 336) == {
        "clip": {"pAcc": 2.96, "mAcc": 3.04, "fwIoU": 1.39, "mIoU": 0.79},
        "sclip": {"pAcc": 21.33, "mAcc": 15.3, "fwIoU": 15.9, "mIoU": 5.28},
        "cliptrase": {"pAcc": 26.73, "mAcc": 17.99, "fwIoU": 20.3, "mIoU": 5.89},
    }


@pytest.mark.parametrize(
    ("benchmark", "protocol", "short_side"),
    [
        ("", PUBLISHED_PROTOCOL, 224),
        ("cityscapes19", PUBLISHED_PROTOCOL, 224),
        ("voc20", PUBLISHED_PROTOCOL, 448),
        ("voc20", "whole", 336),
    ],
)
def test_what_the_paper_does_not_report(benchmark: str, protocol: str, short_side: int) -> None:
    assert published_numbers(benchmark, protocol, short_side) == {}


@pytest.mark.parametrize("short_side", [224, 336])
def test_every_cell_of_the_table_is_there(short_side: int) -> None:
    rows = [published_numbers(key, PUBLISHED_PROTOCOL, short_side) for key in KEYS]
    assert len(rows) == 9
    assert all(row.keys() == {"clip", "sclip", "cliptrase"} for row in rows)
    assert all(tuple(numbers) == HEADLINE for row in rows for numbers in row.values())


@pytest.mark.parametrize(("table", "short_side"), [("table3", 224), ("table4", 336)])
def test_averages_are_those_that_the_paper_prints(shared: Path, table: str, short_side: int) -> None:
    printed = json.loads((shared / "data" / "paper_tables.json").read_text(encoding="utf-8"))[table]["AVG"]
    for system, averages in printed.items():
        for metric, average in averages.items():
            mean = fmean(published_numbers(key, PUBLISHED_PROTOCOL, short_side)[system][metric] for key in KEYS)
            assert mean == pytest.approx(average, abs=0.0051), (system, metric)


def test_source_is_said() -> None:
    assert "2407.08268" in published_source()
    assert "2407.08268" in ablation_source()


def test_the_rows_of_the_ablation_have_the_averages_that_the_paper_prints() -> None:
    printed = {"clip": 21.76, "own_patch": 28.94, "cliptrase_scr": 36.18, "cosine": 36.94, "cosine_oracle": 37.67}
    rows = published_ablation()
    for system, average in printed.items():
        assert sum(rows[system].mean_iou.values()) / 4 == pytest.approx(average, abs=0.006)
    assert list(rows)[-1] == "cliptrase"
