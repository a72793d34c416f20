"""Errors of data loader processes that die."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

from cliptrase_d2.utils.errors import InputError, error_chain
from cliptrase_d2.utils.interruption import find_interruption

# PyTorch's messages, raised wherever the waiting process is at that moment.
_DEATH = re.compile(r"DataLoader worker \(pid[^)]*\)?[\d, ]*\) (?:is )?([^.]*)")
_REPORT_DELAY = 1.0  # seconds; the system reports a death within milliseconds


@contextmanager
def explain_worker_deaths(title: str) -> Iterator[None]:
    """Turn PyTorch's errors for a dead data loader process into one that says what to do.

    PyTorch raises them from a signal handler, at any line of the main process, or when a batch cannot be fetched.

    Args:
        title: name of the data, for the message.
    Raises:
        InputError: a worker process was killed, or exited early.
        KeyboardInterrupt: the main process was interrupted, too.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        stop = find_interruption(error)
        if stop is not None:  # the signal went to all processes
            raise stop from error
        is_lost = isinstance(error, (ConnectionError, EOFError))  # the worker's batch can no longer be fetched
        report = (_wait_for_report() if is_lost else None) or error
        death = next(filter(None, (_DEATH.match(str(cause)) for cause in error_chain(report))), None)
        if death is None and not is_lost:
            raise
        reason = death[1].strip() if death else str(error) or "its batch is lost"
        fix = (
            "It probably ran out of memory, or of shared memory (/dev/shm): lower DATALOADER.NUM_WORKERS; 0 reads in "
            "the main process. --resume continues from the finished images."
        )
        got = f"a process that was reading {title} died ({reason})"
        raise InputError("DATALOADER.NUM_WORKERS", got, fix) from error


def _wait_for_report() -> RuntimeError | None:
    """Return PyTorch's error for a death that was noticed before it; otherwise it would strike at a later line."""
    try:
        time.sleep(_REPORT_DELAY)
    except RuntimeError as death:
        return death
    return None
