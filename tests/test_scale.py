"""Evaluation in several processes, killed and resumed: the numbers are those of one process that was left alone."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.command_line import ROOT

needs_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="two processes would share the GPUs of this machine")
COMMAND = ("train_net.py", "--eval-only", "--config-file", "configs/emoji_scenes.yaml")
OPTIONS = (
    *("TEST.SYSTEMS", "()", "TEST.EXPECTED_RESULTS", "[]", "TEST.SAVE_PREDICTIONS", "False"),
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
sys.path.insert(0, ".")
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def report(output: Path) -> dict[str, Any]:
    values = json.loads((output / "inference" / "emoji_scenes" / "metrics.json").read_text())
    return {key: value for key, value in values.items() if key != "versions"}


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}


def evaluate(output: Path, *flags: str, before: tuple[str, ...] = ()) -> str:
    """Run to the end; what was logged."""
    command = [sys.executable, *before, *COMMAND, *flags, *OPTIONS, "OUTPUT_DIR", str(output)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def start_and_stop(output: Path, tmp_path: Path) -> subprocess.Popen[bytes]:
    """An evaluation that has written its progress three times, and waits."""
    script = tmp_path / "stopping.py"
    script.write_text(STOPPING)
    command = [sys.executable, str(script), *COMMAND, *OPTIONS, "OUTPUT_DIR", str(output)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    progress = output / "inference" / "emoji_scenes" / "progress"
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
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
    output = tmp_path_factory.mktemp("alone")
    evaluate(output)
    assert not (output / "inference" / "emoji_scenes" / "progress").exists()
    return report(output)


@pytest.mark.slow
@needs_cpu
def test_two_processes_find_what_one_finds(alone: dict[str, Any], tmp_path: Path) -> None:
    evaluate(tmp_path, "--num-gpus", "2", "--dist-url", "auto")
    assert report(tmp_path) == alone


@pytest.mark.slow
@needs_cpu
def test_three_processes_of_torchrun_find_what_one_finds(alone: dict[str, Any], tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node", "3", "--master-port", port)
    evaluate(tmp_path, before=torchrun)
    assert report(tmp_path) == alone


@pytest.mark.slow
@needs_cpu
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_evaluation_goes_on_where_it_was(alone: dict[str, Any], tmp_path: Path, processes: int) -> None:
    output = tmp_path / "output"
    process = start_and_stop(output, tmp_path)
    process.kill()
    process.wait()
    flags = ("--num-gpus", str(processes), "--dist-url", "auto") if processes > 1 else ()
    said = evaluate(output, "--resume", *flags)
    assert "resumed: 15 of 96 images were done" in said
    assert report(output) == alone
    assert not (output / "inference" / "emoji_scenes" / "progress").exists()


@pytest.mark.slow
def test_interrupted_evaluation_says_how_to_go_on(tmp_path: Path) -> None:
    output = tmp_path / "output"
    process = start_and_stop(output, tmp_path)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert len(list((output / "inference" / "emoji_scenes" / "progress").iterdir())) == 1


@pytest.mark.slow
@needs_cpu
def test_without_resume_an_evaluation_starts_anew(alone: dict[str, Any], tmp_path: Path) -> None:
    output = tmp_path / "output"
    process = start_and_stop(output, tmp_path)
    process.kill()
    process.wait()
    said = evaluate(output)
    assert "resumed" not in said
    assert report(output) == alone
