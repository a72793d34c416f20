"""The benchmark of an evaluation: drawn files, shares of time and report."""

import json
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cliptrase_d2.d2 import DatasetCatalog
from cliptrase_d2.data.loader import EvaluationLoader, list_records
from cliptrase_d2.evaluation.evaluator import SegmentationEvaluator
from tests.clip.tiny import register_tiny
from tools import benchmark_evaluation


@pytest.mark.parametrize(("classes", "ignored"), [(20, 255), (300, 65535)])
def test_the_files_are_photographs_with_labels(tmp_path: Path, classes: int, ignored: int) -> None:
    name = benchmark_evaluation.draw_dataset(tmp_path, 3, classes)
    records = list_records(name, "stop")
    DatasetCatalog.remove(name)
    assert len(records) == 3
    labels = np.asarray(Image.open(records[0]["sem_seg_file_name"]))
    assert labels.shape == (375, 500) == np.asarray(Image.open(records[0]["file_name"])).shape[:2]
    assert labels.max() < classes < ignored


def test_main_measures_every_combination(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out" / "numbers.json"
    words = ["--model", register_tiny(tmp_path), "--sizes", "64", "--batch", "1", "2", "--classes", "5"]
    words += ["--images", "3", "--repeats", "1", "--workers", "0", "--masks", "4", "--device", "cpu"]
    words += ["--precision", "fp32", "bf16", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", ["benchmark_evaluation.py", *words])
    before = SegmentationEvaluator.process, EvaluationLoader.__iter__
    logger = logging.getLogger("cliptrase_d2")
    level = logger.level
    try:
        benchmark_evaluation.main()
    finally:
        logger.setLevel(level)  # other tests read the log
    report = json.loads(output.read_text())
    assert [(row["precision"], row["batch"]) for row in report["rows"]] == [
        *(("fp32", 1), ("fp32", 2)),
        *(("bf16", 1), ("bf16", 2)),
    ]
    for row in report["rows"]:
        assert sum(row["shares"].values()) == pytest.approx(1)  # of one round
        assert row["shares"]["image tower"] > 0 < row["shares"]["metrics"]
        assert row["of_plain"] > 0
    assert benchmark_evaluation.table(report["rows"]) in capsys.readouterr().out
    assert (SegmentationEvaluator.process, EvaluationLoader.__iter__) == before
