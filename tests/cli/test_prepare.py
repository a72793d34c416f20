"""`cliptrase prepare`: the scripts in ``datasets/`` by their names."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cliptrase_d2.cli.prepare import list_scripts
from cliptrase_d2.data.custom import read_dataset_file
from cliptrase_d2.data.register import load_records
from tests.cli.commands import fail, run
from tests.command_line import ROOT


@pytest.fixture(autouse=True)
def _restore(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", sys.path[:])


def test_every_script_has_its_name() -> None:
    assert set(list_scripts().values()) == set((ROOT / "datasets").glob("prepare_*.py"))


def test_scenes_are_drawn_with_the_options_of_the_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "scenes"
    options = ("--split", "seen", "--count", "2", "--size", "32", "--workers", "1")
    assert run("prepare", "emoji_scenes", str(output), *options) == 0
    assert len(load_records(read_dataset_file(output / "dataset.yaml"))) == 2
    assert capsys.readouterr().out == f"2 scenes: {output / 'dataset.yaml'}\n"


def test_help_is_that_of_the_script(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("prepare", "voc", "--help") == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: cliptrase prepare voc ")
    assert "--archives" in text


def test_errors_are_one_line(tmp_path: Path) -> None:
    assert "Did you mean 'voc'?" in fail("prepare", "voc20")
    assert "no such archive" in fail("prepare", "voc", str(tmp_path))
