"""`tests/user_script.py` runs. Its types are checked by mypy in `make lint`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import user_script
from tests.command_line import ROOT


def test_the_script_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    classes = user_script.main(ROOT / "datasets" / "emoji_scenes" / "images", tmp_path)
    assert set(classes) <= {"soccer ball", "red book", "water", "background"}
    assert "water" in classes
    assert {file.name for file in tmp_path.iterdir()} == {"224x224.png", "labels.png", "coco.json"}
    assert {segment["image_id"] for segment in json.loads((tmp_path / "coco.json").read_text())} == {7}
    assert "user_script_scenes' cannot be used" in capsys.readouterr().out
