"""Reading processes that die."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from cliptrase_d2.errors import InputError

# What PyTorch says, wherever the process that waits for them is at that moment.
_DEATH = re.compile(r"DataLoader worker \(pid[^)]*\)?[\d, ]*\) (?:is )?([^.]*)")


@contextmanager
def worker_deaths_explained(title: str) -> Iterator[None]:
    """Turn PyTorch's error about a reading process that ended into one that says what to do.

    Args:
        title: what was being read.
    Raises:
        InputError: a reading process was killed, or ended by itself.
    """
    try:
        yield
    except RuntimeError as error:
        death = _DEATH.match(str(error))
        if death is None:
            raise
        raise InputError(
            "DATALOADER.NUM_WORKERS",
            f"a process that was reading {title} ended before its work ({death[1].strip()})",
            "processes that come to their end",
            "It was most likely short of memory, or of shared memory (/dev/shm): lower DATALOADER.NUM_WORKERS, 0 reads "
            "in the one process that computes. --resume goes on from what is done.",
        ) from error
