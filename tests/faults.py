"""Simulated faults of the machine: a full disk, a killed process."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def limit_file_size(size: int) -> Iterator[None]:
    """Let the system accept at most `size` bytes per file; the last write is cut short."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def kill_at_file(number: int, work: Callable[[], object]) -> None:
    """Run `work` in a process that is killed when it is about to rename its file `number`, counted from 1."""
    replace, targets = Path.replace, []

    def replace_or_die(self: Path, target: Path) -> Path:
        targets.append(target)
        if len(targets) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(self, target)

    pid = os.fork()
    if pid == 0:
        try:
            Path.replace = replace_or_die  # type: ignore[method-assign]
            work()
        finally:
            os._exit(1)  # the tests must not continue in this process
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
