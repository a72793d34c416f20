"""`make eval` from end to end: the embedded model on the emoji scenes of the repository."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cliptrase_d2.config import load_config
from tests.command_line import ROOT, call

CONFIG = str(ROOT / "configs" / "emoji_scenes.yaml")
METHODS = list(load_config(CONFIG).TEST.METHODS)


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Run the evaluation, and read metrics.json of every method."""
    output = tmp_path_factory.mktemp("emoji_scenes")
    with pytest.MonkeyPatch.context() as patch:
        message = call(patch, "--eval-only", "--config-file", CONFIG, "OUTPUT_DIR", str(output))
    assert message == ""  # all results are as expected
    assert len(list((output / "cliptrase" / "inference" / "emoji_scenes" / "predictions").iterdir())) == 96
    files = {name: output / name / "inference" / "emoji_scenes" / "metrics.json" for name in METHODS}
    return {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items()}


def test_every_method_has_an_expected_accuracy_and_iou() -> None:
    expected = {(task, metric) for task, metric, *_ in load_config(CONFIG).TEST.EXPECTED_RESULTS}
    assert expected == {(f"{name}/sem_seg", metric) for name in METHODS for metric in ("pAcc", "mIoU")}


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["pAcc", "mIoU"])
def test_results_are_as_expected_and_in_the_order_of_the_paper(reports: dict[str, dict[str, Any]], metric: str) -> None:
    assert reports["clip"][metric] < reports["sclip"][metric] < reports["cliptrase"][metric]


@pytest.mark.slow
def test_unsupervised_results_are_as_expected_and_independent_of_batches(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = str(ROOT / "configs" / "unsupervised" / "emoji_scenes.yaml")
    reports = []
    for name, options in (("first", ()), ("alone", ("TEST.BATCH_SIZE", "1", "DATALOADER.NUM_WORKERS", "0"))):
        output = tmp_path / name
        message = call(monkeypatch, "--eval-only", "--config-file", config, "OUTPUT_DIR", str(output), *options)
        assert message == ""  # all results are as expected
        assert (output / "report.html").is_file()
        folder = output / "inference" / "emoji_scenes"
        assert len(list((folder / "predictions").iterdir())) == 96
        reports.append(json.loads((folder / "metrics.json").read_text()))
    first, alone = reports
    assert first["groups"]["count"] == len(set(first["groups"]["classes"])) == 72
    for key in ("pAcc", "mIoU", "groups", "images"):
        assert first[key] == alone[key]


@pytest.mark.slow
def test_no_network_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("tried to connect"))
    words = ["--eval-only", "--config-file", CONFIG, "OUTPUT_DIR", str(tmp_path), "DATALOADER.NUM_WORKERS", "0"]
    short = ["TEST.METHODS", "['clip']", "TEST.EXPECTED_RESULTS", "[]", "DATASETS.TEST", "('emoji_scenes_held_out',)"]
    assert call(monkeypatch, *words, *short) == ""
