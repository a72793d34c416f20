"""Fast subprocesses: Python scripts in forks of a server that has imported PyTorch and other third-party packages.

Each script imports this package anew. It has its own arguments, streams, signals and exit code.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import torch.multiprocessing

ROOT = Path(__file__).resolve().parents[1]
# Options of torchrun to fork its processes, too; the script then needs its full path.
FORKING = ("--run-path", "--start-method", "fork")
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    ["pytest", "torch", "torchvision", "open_clip", "hdbscan", "cv2", "fvcore.common.config"]
)


def start(words: Sequence[str], folder: Path, **environment: str) -> ForkServerProcess:
    """Start `python WORDS...` in the root of the repository.

    Args:
        words: a script and its arguments, or -m MODULE ...
        folder: receives the output as stdout.txt and stderr.txt.
        environment: further variables; Python and PyTorch do not see those that they read at start-up.
    """
    process = _SERVER.Process(target=_run, args=([str(word) for word in words], folder, {**os.environ, **environment}))
    process.start()
    return process


def run(words: Sequence[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the same to its end, like subprocess.run with `text` and `capture_output`."""
    folder.mkdir(parents=True, exist_ok=True)
    process = start(words, folder, **environment)
    process.join(300)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(f"{' '.join(words)} does not end")
    out, err = ((folder / name).read_text() for name in ("stdout.txt", "stderr.txt"))
    return subprocess.CompletedProcess(words, process.exitcode, out, err)


def fork_subprocesses(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Make subprocess.run fork its Python commands in this way."""

    def run_forked(command: Sequence[str], check: bool = False, env: Any = None, stdout: Any = None, stderr: int = 0):
        assert command[0] == sys.executable
        done = run(command[1:], folder, **(env or {}))
        out = stdout or sys.stdout
        out.write(done.stdout)
        (out if stderr == subprocess.STDOUT else sys.stderr).write(done.stderr)
        if check:
            done.check_returncode()
        return done

    monkeypatch.setattr(subprocess, "run", run_forked)


def _run(words: list[str], folder: Path, environment: dict[str, str]) -> None:
    for name, stream in (("stdout.txt", sys.stdout), ("stderr.txt", sys.stderr)):
        with (folder / name).open("wb") as file:
            os.dup2(file.fileno(), stream.fileno())
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background jobs
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    # The processes of --num-gpus are forks, too.
    torch.multiprocessing.start_processes = partial(torch.multiprocessing.start_processes, start_method="fork")
    is_module = words[0] == "-m"
    sys.argv = words[is_module:]
    sys.path.insert(0, str(ROOT if is_module else Path(words[0]).resolve().parent))
    if is_module:
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(words[0], run_name="__main__")
