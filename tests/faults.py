"""Faults of the machine: a disk without room, a process that is killed."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """The system takes no more than so many bytes of a file, the last of them in a write that it cuts short."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def kill_at_file(number: int, work: Callable[[], object]) -> None:
    """Do work in a process of its own, which is killed when a file, counted from 1, is written but has not its name."""
    pid = os.fork()
    if pid == 0:
        try:
            _die_at(number)
            work()
        finally:
            os._exit(1)  # nothing of the tests may go on here
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def _die_at(number: int) -> None:
    replace, calls = Path.replace, []

    def counted(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(self, target)

    Path.replace = counted  # type: ignore[method-assign]
