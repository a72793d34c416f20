"""Ctrl-C and termination: one way out, with a word about what is done."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 128 + signal.SIGINT  # the exit code that shells give for Ctrl-C


class Interrupted(KeyboardInterrupt):
    """An interruption whose message says how far the work has come."""


@contextmanager
def clean_end(way_on: str = "") -> Iterator[None]:
    """End the process at Ctrl-C or SIGTERM with one message, and the exit code that shells give for the signal.

    Args:
        way_on: a sentence on how to go on.
    """
    received = signal.SIGINT

    def terminate(number: int, _: FrameType | None) -> None:
        nonlocal received
        received = signal.Signals(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except KeyboardInterrupt as stop:
        done = f"{stop}." if isinstance(stop, Interrupted) else ""
        print(" ".join(part for part in ("interrupted.", done, way_on) if part), file=sys.stderr)
        sys.exit(128 + received)
    finally:
        signal.signal(signal.SIGTERM, before)
