"""Python in a process of its own without the wait: what others wrote is imported once, and forked for every script.

PyTorch and its like take seconds to import, this package takes none, so each script imports it anew; and all that a
process can do or suffer is there: arguments, streams, signals, an exit code.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import TextIO

import pytest
import torch.multiprocessing

ROOT = Path(__file__).resolve().parents[1]
# Options of torchrun by which its processes, too, are forks; the script is named by its full path then.
FORKING = ("--run-path", "--start-method", "fork")
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    ["pytest", "torch", "torchvision", "open_clip", "hdbscan", "cv2", "fvcore.common.config"]
)


def start(words: Sequence[str], folder: Path, **environment: str) -> ForkServerProcess:
    """`python WORDS...` in the root of the repository, where the words are a script and its arguments, or -m MODULE ...

    Args:
        folder: what it writes is stdout.txt and stderr.txt there.
        environment: further variables, too late for those that Python and PyTorch read when they begin.
    """
    process = _SERVER.Process(target=_run, args=([str(word) for word in words], folder, {**os.environ, **environment}))
    process.start()
    return process


def run(words: Sequence[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The same to its end, as subprocess.run with `text` and `capture_output`."""
    folder.mkdir(parents=True, exist_ok=True)
    process = start(words, folder, **environment)
    process.join(300)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(f"{' '.join(words)} does not end")
    out, err = ((folder / name).read_text() for name in ("stdout.txt", "stderr.txt"))
    return subprocess.CompletedProcess(words, process.exitcode, out, err)


def instead_of_subprocesses(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Have subprocess.run fork in this way what it is told to run with Python."""

    def forked(
        command: Sequence[str],
        check: bool = False,
        env: Mapping[str, str] | None = None,
        stdout: TextIO | None = None,
        stderr: int | None = None,
    ) -> subprocess.CompletedProcess[str]:
        assert command[0] == sys.executable
        done = run(command[1:], folder, **(env or {}))
        out = stdout or sys.stdout
        out.write(done.stdout)
        (out if stderr == subprocess.STDOUT else sys.stderr).write(done.stderr)
        if check:
            done.check_returncode()
        return done

    monkeypatch.setattr(subprocess, "run", forked)


def _run(words: list[str], folder: Path, environment: dict[str, str]) -> None:
    for name, stream in (("stdout.txt", sys.stdout), ("stderr.txt", sys.stderr)):
        with (folder / name).open("wb") as file:
            os.dup2(file.fileno(), stream.fileno())
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    # What --num-gpus starts are forks, too.
    torch.multiprocessing.start_processes = partial(torch.multiprocessing.start_processes, start_method="fork")
    is_module = words[0] == "-m"
    sys.argv = words[is_module:]
    sys.path.insert(0, str(ROOT if is_module else Path(words[0]).resolve().parent))
    if is_module:
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(words[0], run_name="__main__")
