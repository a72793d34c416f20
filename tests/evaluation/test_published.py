import json
from pathlib import Path
from statistics import fmean

import pytest

from cliptrase_d2.evaluation import published
from cliptrase_d2.evaluation.metrics import HEADLINE
from cliptrase_d2.evaluation.published import PUBLISHED_PROTOCOL as CROP
from cliptrase_d2.evaluation.published import published_numbers

KEYS = published.published_benchmarks()


def test_numbers_of_one_benchmark() -> None:
    assert published_numbers("ade847", CROP, 336) == {
        "clip": {"pAcc": 2.96, "mAcc": 3.04, "fwIoU": 1.39, "mIoU": 0.79},
        "sclip": {"pAcc": 21.33, "mAcc": 15.3, "fwIoU": 15.9, "mIoU": 5.28},
        "cliptrase": {"pAcc": 26.73, "mAcc": 17.99, "fwIoU": 20.3, "mIoU": 5.89},
    }
    assert "2407.08268" in published.published_source()


def test_settings_that_the_paper_does_not_report_have_no_numbers() -> None:
    settings = ("", CROP, 224), ("cityscapes19", CROP, 224), ("voc20", CROP, 448), ("voc20", "whole", 336)
    assert [published_numbers(*setting) for setting in settings] == [{}] * 4


def test_tables_are_complete() -> None:
    rows = [published_numbers(key, CROP, short_side) for key in KEYS for short_side in (224, 336)]
    assert len(rows) == 18
    assert all(row.keys() == {"clip", "sclip", "cliptrase"} for row in rows)
    assert all(tuple(numbers) == HEADLINE for row in rows for numbers in row.values())


@pytest.mark.parametrize(("table", "short_side"), [("table3", 224), ("table4", 336)])
def test_averages_equal_the_printed_ones(shared: Path, table: str, short_side: int) -> None:
    printed = json.loads((shared / "data" / "paper_tables.json").read_text(encoding="utf-8"))[table]["AVG"]
    for method, averages in printed.items():
        for metric, average in averages.items():
            mean = fmean(published_numbers(key, CROP, short_side)[method][metric] for key in KEYS)
            assert mean == pytest.approx(average, abs=0.0051), (method, metric)


def test_averages_of_the_ablation_equal_the_printed_ones() -> None:
    printed = {"clip": 21.76, "own_patch": 28.94, "cliptrase_scr": 36.18, "cosine": 36.94, "cosine_oracle": 37.67}
    rows = published.published_ablation()
    for method, average in printed.items():
        assert sum(rows[method].mean_iou.values()) / 4 == pytest.approx(average, abs=0.006)
    assert list(rows)[-1] == "cliptrase"
    assert "2407.08268" in published.ablation_source()
