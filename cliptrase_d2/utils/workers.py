"""Reading processes that die."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

from cliptrase_d2.utils.errors import InputError, error_chain
from cliptrase_d2.utils.interruption import interruption_before

# What PyTorch says, wherever the process that waits for them is at that moment.
_DEATH = re.compile(r"DataLoader worker \(pid[^)]*\)?[\d, ]*\) (?:is )?([^.]*)")

_SOON = 1.0  # seconds; the system tells of a death within some milliseconds


@contextmanager
def explain_worker_deaths(title: str) -> Iterator[None]:
    """Turn what PyTorch makes of a reading process that ended into an error that says what to do.

    It raises from a handler of signals, at any line of the process that reads from it, or cannot fetch what was read.

    Args:
        title: what was being read.
    Raises:
        InputError: a reading process was killed, or ended by itself.
        KeyboardInterrupt: this process was to end, too.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        stop = interruption_before(error)
        if stop is not None:  # a signal to all processes
            raise stop from error
        is_lost = isinstance(error, (ConnectionError, EOFError))  # what it had read can no longer be fetched from it
        told = (_told_soon() if is_lost else None) or error
        death = next(filter(None, (_DEATH.match(str(before)) for before in error_chain(told))), None)
        if death is not None:
            raise _ended(title, death[1].strip()) from error
        if is_lost:
            raise _ended(title, str(error) or "its batch is lost") from error
        raise


def _told_soon() -> RuntimeError | None:
    """PyTorch's word of a death that came to light before it: waited for, or else it comes at some later line."""
    try:
        time.sleep(_SOON)
    except RuntimeError as death:
        return death
    return None


def _ended(title: str, how: str) -> InputError:
    return InputError(
        "DATALOADER.NUM_WORKERS",
        f"a process that was reading {title} ended before its work ({how})",
        "It was most likely short of memory, or of shared memory (/dev/shm): lower DATALOADER.NUM_WORKERS, 0 reads "
        "in the one process that computes. --resume goes on from what is done.",
        allowed="processes that come to their end",
    )
