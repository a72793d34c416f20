"""Evaluation in several processes, killed and resumed: the numbers are those of one process that was left alone."""

from __future__ import annotations

import json
import os
import signal
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import forked
from tests.command_line import run_process

needs_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="two processes would share the GPUs of this machine")
COMMAND = (str(forked.ROOT / "train_net.py"), "--eval-only", "--config-file", "configs/emoji_scenes.yaml")
DATASET, COUNT = "emoji_scenes_held_out", 24
OPTIONS = (
    *("DATASETS.TEST", f"('{DATASET}',)"),
    *("TEST.METHODS", "()", "TEST.EXPECTED_RESULTS", "[]", "TEST.SAVE_PREDICTIONS", "False"),
    *("TEST.SAVE_OVERLAYS", "0", "TEST.BATCH_SIZE", "5", "DATALOADER.NUM_WORKERS", "0"),
)
# Writes progress after every batch, and stops at the third until it is killed.
STOPPING = """
import runpy, sys, time
from cliptrase_d2.evaluation import progress
progress.FLUSH_SECONDS = 0
done, calls = progress.ProgressWriter.done, []
def stop(self, indices, counts):
    done(self, indices, counts)
    calls.append(None)
    if len(calls) == 3:
        time.sleep(600)
progress.ProgressWriter.done = stop
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def report(output: Path) -> dict[str, Any]:
    values = json.loads((output / "inference" / DATASET / "metrics.json").read_text())
    return {key: value for key, value in values.items() if key != "versions"}


def evaluate(output: Path, *flags: str, before: tuple[str, ...] = ()) -> str:
    """Run to the end; what was logged."""
    done = forked.run([*before, *COMMAND, *flags, *OPTIONS, "OUTPUT_DIR", str(output)], output.parent)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def start_and_stop(output: Path, tmp_path: Path) -> ForkServerProcess:
    """An evaluation that has written its progress three times, and waits."""
    script = tmp_path / "stopping.py"
    script.write_text(STOPPING)
    process = forked.start([str(script), *COMMAND, *OPTIONS, "OUTPUT_DIR", str(output)], tmp_path)
    progress = output / "inference" / DATASET / "progress"
    until = time.monotonic() + 120
    while time.monotonic() < until and process.is_alive():
        if progress.is_dir() and (files := list(progress.glob("*.npz"))):
            with np.load(files[0]) as stored:
                if len(stored["indices"]) == 15:
                    return process
        time.sleep(0.05)
    process.kill()
    raise AssertionError("the evaluation came to no third batch")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process finds that is left alone."""
    output = tmp_path_factory.mktemp("alone") / "output"
    evaluate(output)
    assert not (output / "inference" / DATASET / "progress").exists()
    return report(output)


@pytest.mark.slow
@needs_cpu
def test_two_processes_find_what_one_finds(alone: dict[str, Any], tmp_path: Path) -> None:
    output = tmp_path / "output"
    done = run_process(*COMMAND[1:], "--num-gpus", "2", "--dist-url", "auto", *OPTIONS, "OUTPUT_DIR", str(output))
    assert done.returncode == 0, done.stderr
    assert report(output) == alone


@pytest.mark.slow
@needs_cpu
def test_three_processes_of_torchrun_find_what_one_finds(alone: dict[str, Any], tmp_path: Path) -> None:
    output = tmp_path / "output"
    evaluate(output, before=("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3", *forked.FORKING))
    assert report(output) == alone


@pytest.mark.slow
@needs_cpu
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_evaluation_goes_on_where_it_was(alone: dict[str, Any], tmp_path: Path, processes: int) -> None:
    output = tmp_path / "output"
    process = start_and_stop(output, tmp_path)
    process.kill()
    process.join()
    flags = ("--num-gpus", str(processes), "--dist-url", "auto") if processes > 1 else ()
    said = evaluate(output, "--resume", *flags)
    assert f"resumed: 15 of {COUNT} images were done" in said
    assert report(output) == alone
    assert not (output / "inference" / DATASET / "progress").exists()


@pytest.mark.slow
def test_interrupted_evaluation_says_how_to_go_on(tmp_path: Path) -> None:
    output = tmp_path / "output"
    process = start_and_stop(output, tmp_path)
    os.kill(process.pid, signal.SIGINT)
    process.join(30)
    code = process.exitcode
    process.kill()  # if it goes on, it would be waited for
    assert code == 130
    assert len(list((output / "inference" / DATASET / "progress").iterdir())) == 1


@pytest.mark.slow
@needs_cpu
def test_without_resume_an_evaluation_starts_anew(alone: dict[str, Any], tmp_path: Path) -> None:
    output = tmp_path / "output"
    process = start_and_stop(output, tmp_path)
    process.kill()
    process.join()
    said = evaluate(output)
    assert "resumed" not in said
    assert report(output) == alone
