"""`make eval` from end to end: the embedded model on the emoji scenes of the repository."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cliptrase_d2.config import load_config
from tests.command_line import ROOT, call

CONFIG, WHOLE = (str(ROOT / "configs" / f"{name}.yaml") for name in ("emoji_scenes", "emoji_scenes_whole"))
METHODS = {config: list(load_config(config).TEST.METHODS) for config in (CONFIG, WHOLE)}
IN_WINDOWS = ["clip", "maskclip", "cliptrase"]  # some of the default methods, since windows take ten times as long


def run(output: Path, config: str, methods: list[str]) -> dict[str, dict[str, Any]]:
    """Evaluate methods, compare with their expected results, and read metrics.json of each."""
    expected = [entry for entry in load_config(config).TEST.EXPECTED_RESULTS if entry[0].split("/")[0] in methods]
    assert len(expected) == 2 * len(methods)
    options = ("TEST.METHODS", str(methods), "TEST.EXPECTED_RESULTS", str(expected), "OUTPUT_DIR", str(output))
    with pytest.MonkeyPatch.context() as patch:
        message = call(patch, "--eval-only", "--config-file", config, *options)
    assert message == ""  # all results are as expected
    assert len(list((output / "cliptrase" / "inference" / "emoji_scenes" / "predictions").iterdir())) == 96
    files = {name: output / name / "inference" / "emoji_scenes" / "metrics.json" for name in methods}
    return {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items()}


@pytest.mark.parametrize("config", METHODS)
def test_every_method_has_an_expected_accuracy_and_iou(config: str) -> None:
    expected = {(task, metric) for task, metric, *_ in load_config(config).TEST.EXPECTED_RESULTS}
    assert expected == {(f"{name}/sem_seg", metric) for name in METHODS[config] for metric in ("pAcc", "mIoU")}


def test_expected_results_in_windows_are_in_the_order_of_the_paper() -> None:
    expected = load_config(CONFIG).TEST.EXPECTED_RESULTS
    for metric in ("pAcc", "mIoU"):
        values = [value for _, name, value, _ in expected if name == metric]
        assert values == sorted(values)


@pytest.mark.slow
def test_results_in_windows_are_as_expected_and_cliptrase_leads(tmp_path: Path) -> None:
    reports = run(tmp_path, CONFIG, IN_WINDOWS)
    for metric in ("pAcc", "mIoU"):
        assert reports["clip"][metric] < reports["maskclip"][metric] < reports["cliptrase"][metric]


@pytest.mark.slow
def test_results_on_whole_images_are_as_expected(tmp_path: Path) -> None:
    reports = run(tmp_path, WHOLE, METHODS[WHOLE])
    for metric in ("pAcc", "mIoU"):
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
