"""What `tests/user_script.py` shows works; mypy checks its types, and those of what it calls, in `make lint`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import user_script
from tests.command_line import ROOT


def test_a_script_that_uses_all_of_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    found = user_script.main(ROOT / "datasets" / "emoji_scenes" / "images", tmp_path)
    assert set(found) <= {"soccer ball", "red book", "water", "background"}
    assert "water" in found
    assert {file.name for file in tmp_path.iterdir()} == {"224x224.png", "labels.png", "coco.json"}
    assert {segment["image_id"] for segment in json.loads((tmp_path / "coco.json").read_text())} == {7}
    assert "user_script_scenes' cannot be used" in capsys.readouterr().out
