"""Evaluation in several processes, killed and resumed, gives the results of one undisturbed process."""

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

pytestmark = pytest.mark.slow
needs_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="two processes would share the GPUs of this machine")
COMMAND = (str(forked.ROOT / "train_net.py"), "--eval-only", "--config-file", "configs/emoji_scenes_whole.yaml")
DATASET, COUNT = "emoji_scenes_held_out", 24
OPTIONS = (
    *("DATASETS.TEST", f"('{DATASET}',)"),
    *("TEST.METHODS", "()", "TEST.EXPECTED_RESULTS", "[]", "TEST.SAVE_PREDICTIONS", "False"),
    *("TEST.SAVE_OVERLAYS", "0", "TEST.BATCH_SIZE", "5", "DATALOADER.NUM_WORKERS", "0"),
)
# Writes progress after every batch, and hangs after the third until it is killed.
HANGING = """
import runpy, sys, time
from cliptrase_d2.evaluation import progress
progress.FLUSH_SECONDS = 0
done, calls = progress.ProgressWriter.done, []
def hang(self, indices, counts):
    done(self, indices, counts)
    calls.append(None)
    if len(calls) == 3:
        time.sleep(600)
progress.ProgressWriter.done = hang
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def report(output: Path) -> dict[str, Any]:
    values = json.loads((output / "inference" / DATASET / "metrics.json").read_text())
    return {key: value for key, value in values.items() if key != "versions"}


def evaluate(output: Path, *flags: str) -> str:
    """Run an evaluation to its end, and return its log."""
    done = forked.run([*COMMAND, *flags, *OPTIONS, "OUTPUT_DIR", str(output)], output.parent)
    assert done.returncode == 0, done.stderr
    assert not (output / "inference" / DATASET / "progress").exists()
    return done.stdout + done.stderr


def start_hanging(output: Path) -> ForkServerProcess:
    """Start an evaluation that hangs, and wait until it has written its progress for the third time."""
    script = output.parent / "hanging.py"
    script.write_text(HANGING)
    process = forked.start([str(script), *COMMAND, *OPTIONS, "OUTPUT_DIR", str(output)], output.parent)
    progress = output / "inference" / DATASET / "progress"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.is_alive():
        for file in progress.glob("*.npz"):
            with np.load(file) as stored:
                if len(stored["indices"]) == 15:
                    return process
        time.sleep(0.05)
    process.kill()
    raise AssertionError("the evaluation did not reach its third batch")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The report of one undisturbed process."""
    output = tmp_path_factory.mktemp("undisturbed") / "output"
    evaluate(output)
    return report(output)


@needs_cpu
def test_two_processes_give_the_results_of_one(undisturbed: dict[str, Any], tmp_path: Path) -> None:
    flags = ("--num-gpus", "2", "--dist-url", "auto")
    done = run_process(*COMMAND[1:], *flags, *OPTIONS, "OUTPUT_DIR", str(tmp_path / "output"))
    assert done.returncode == 0, done.stderr
    assert report(tmp_path / "output") == undisturbed


@needs_cpu
@pytest.mark.parametrize("flags", [("--resume",), ("--resume", "--num-gpus", "2", "--dist-url", "auto"), ()])
def test_killed_evaluation_resumes_or_starts_anew(
    undisturbed: dict[str, Any], tmp_path: Path, flags: tuple[str, ...]
) -> None:
    output = tmp_path / "output"
    process = start_hanging(output)
    process.kill()
    process.join()
    log = evaluate(output, *flags)
    assert (f"resumed: 15 of {COUNT} images were done" in log) == ("--resume" in flags)
    assert report(output) == undisturbed


def test_interrupted_evaluation_exits_with_130_and_keeps_its_progress(tmp_path: Path) -> None:
    process = start_hanging(tmp_path / "output")
    os.kill(process.pid, signal.SIGINT)
    process.join(30)
    code = process.exitcode
    process.kill()  # if it did not exit
    assert code == 130
    assert len(list((tmp_path / "output" / "inference" / DATASET / "progress").iterdir())) == 1
