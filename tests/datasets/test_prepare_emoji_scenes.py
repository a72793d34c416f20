from pathlib import Path

import pytest

from cliptrase_d2.data.custom import read_dataset_file
from cliptrase_d2.data.register import load_records
from tests.datasets.test_prepare_benchmarks import fail, run_script

SCRIPT = "prepare_emoji_scenes.py"


def test_requested_scenes_are_drawn(tmp_path: Path) -> None:
    output = tmp_path / "new" / "scenes"
    options = ("--count", 2, "--size", 32, "--seed", 3, "--workers", 2)
    process = run_script(SCRIPT, output, "--split", "seen", "held_out", *options)
    assert process.returncode == 0, process.stderr
    assert process.stdout == f"4 scenes: {output / 'dataset.yaml'}\n"
    assert process.stderr == ""  # no progress bar without a terminal
    assert len(load_records(read_dataset_file(output / "dataset.yaml"))) == 4
    assert "seed 3" in fail(SCRIPT, output, "--split", "seen", "--count", 2, "--size", 64, "--seed", 3)


@pytest.mark.parametrize(("option", "value"), [("--count", 0), ("--size", 15), ("--seed", -1), ("--workers", 0)])
def test_numbers_below_the_minimum_are_rejected(tmp_path: Path, option: str, value: int) -> None:
    process = run_script(SCRIPT, tmp_path / "scenes", option, value)
    assert process.returncode == 2
    assert f"{option} {value}: must be at least" in process.stderr
    assert not (tmp_path / "scenes").exists()
