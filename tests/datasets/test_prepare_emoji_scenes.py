from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cliptrase_d2.data.custom import read_dataset_file
from cliptrase_d2.data.register import load_records

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "datasets" / "prepare_emoji_scenes.py"


def prepare(*words: object) -> subprocess.CompletedProcess[str]:
    command, environment = [sys.executable, str(SCRIPT), *map(str, words)], {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_draws_what_is_asked_for_and_shows_progress(tmp_path: Path) -> None:
    output = tmp_path / "new" / "scenes"
    done = prepare(output, "--split", "seen", "held_out", "--count", 2, "--size", 32, "--seed", 3, "--workers", 2)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"4 scenes: {output / 'dataset.yaml'}\n"
    assert "4/4" in done.stderr
    assert len(load_records(read_dataset_file(output / "dataset.yaml"))) == 4
    again = prepare(output, "--split", "seen", "--count", 2, "--size", 64, "--seed", 3)
    assert again.returncode == 1
    assert "Traceback" not in again.stderr
    assert again.stderr.startswith("error: ")


@pytest.mark.parametrize("words", [("--count", 0), ("--size", 15), ("--seed", -1), ("--workers", 0)])
def test_number_that_cannot_be(tmp_path: Path, words: tuple[str, int]) -> None:
    done = prepare(tmp_path / "scenes", *words)
    assert done.returncode == 2
    assert f"{words[0]} {words[1]}: must be at least" in done.stderr
    assert not (tmp_path / "scenes").exists()
