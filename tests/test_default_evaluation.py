"""What `make eval` runs, from end to end: the embedded model on the scenes of the repository."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cliptrase_d2.config import load_config
from tests.command_line import ROOT, call

CONFIG = str(ROOT / "configs" / "emoji_scenes.yaml")


def compared_systems() -> list[str]:
    """What the configuration compares, of which the README shows every one."""
    return list(load_config(CONFIG).TEST.METHODS)


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    """The metrics.json of every system."""
    output = tmp_path_factory.mktemp("emoji_scenes")
    with pytest.MonkeyPatch.context() as patch:
        end = call(patch, "--eval-only", "--config-file", CONFIG, "OUTPUT_DIR", str(output))
    assert end == ""  # or a result is not as expected
    assert len(list((output / "cliptrase" / "inference" / "emoji_scenes" / "predictions").iterdir())) == 96
    files = {name: output / name / "inference" / "emoji_scenes" / "metrics.json" for name in compared_systems()}
    return {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items()}


def test_pixel_accuracy_and_iou_of_every_system_are_expected() -> None:
    expected = {(task, metric) for task, metric, *_ in load_config(CONFIG).TEST.EXPECTED_RESULTS}
    assert expected == {(f"{name}/sem_seg", metric) for name in compared_systems() for metric in ("pAcc", "mIoU")}


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["pAcc", "mIoU"])
def test_the_systems_come_as_expected_and_in_the_order_of_the_paper(
    reports: dict[str, dict[str, float]], metric: str
) -> None:
    clip, sclip, cliptrase = (reports[name][metric] for name in ("clip", "sclip", "cliptrase"))
    assert clip < sclip < cliptrase


@pytest.mark.slow
def test_groups_without_words_come_as_expected_and_once_more_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = str(ROOT / "configs" / "unsupervised" / "emoji_scenes.yaml")
    words = ("--eval-only", "--config-file", config, "OUTPUT_DIR")
    assert call(monkeypatch, *words, str(tmp_path / "first")) == ""  # or a result is not as expected
    assert (
        call(monkeypatch, *words, str(tmp_path / "alone"), "TEST.BATCH_SIZE", "1", "DATALOADER.NUM_WORKERS", "0") == ""
    )
    place = Path("inference") / "emoji_scenes" / "metrics.json"
    first, alone = (json.loads((tmp_path / name / place).read_text()) for name in ("first", "alone"))
    assert first["groups"]["count"] == len(set(first["groups"]["classes"])) == 72
    for key in ("pAcc", "mIoU", "groups", "images"):
        assert first[key] == alone[key]
    assert len(list((tmp_path / "first" / place).parent.joinpath("predictions").iterdir())) == 96
    assert (tmp_path / "first" / "report.html").is_file()


@pytest.mark.slow
def test_no_network_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was attempted")

    monkeypatch.setattr("socket.socket.connect", refuse)
    words = ["--eval-only", "--config-file", CONFIG, "OUTPUT_DIR", str(tmp_path), "DATALOADER.NUM_WORKERS", "0"]
    short = ["TEST.METHODS", "['clip']", "TEST.EXPECTED_RESULTS", "[]", "DATASETS.TEST", "('emoji_scenes_held_out',)"]
    assert call(monkeypatch, *words, *short) == ""
