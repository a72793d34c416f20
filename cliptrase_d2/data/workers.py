"""Reading processes that die."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from cliptrase_d2.errors import InputError, came_after
from cliptrase_d2.interruption import interruption_before

# What PyTorch says, wherever the process that waits for them is at that moment.
_DEATH = re.compile(r"DataLoader worker \(pid[^)]*\)?[\d, ]*\) (?:is )?([^.]*)")


@contextmanager
def worker_deaths_explained(title: str) -> Iterator[None]:
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
        death = next(filter(None, (_DEATH.match(str(before)) for before in came_after(error))), None)
        if death is not None:
            raise _ended(title, death[1].strip()) from error
        if isinstance(error, (ConnectionError, EOFError)):  # what it had read can no longer be fetched from it
            raise _ended(title, str(error) or "its batch is lost") from error
        raise


def _ended(title: str, how: str) -> InputError:
    return InputError(
        "DATALOADER.NUM_WORKERS",
        f"a process that was reading {title} ended before its work ({how})",
        "processes that come to their end",
        "It was most likely short of memory, or of shared memory (/dev/shm): lower DATALOADER.NUM_WORKERS, 0 reads "
        "in the one process that computes. --resume goes on from what is done.",
    )
