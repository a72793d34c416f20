"""Ctrl-C and termination: one way out, with a word about what is done."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from cliptrase_d2.utils.errors import error_chain

INTERRUPTED = 128 + signal.SIGINT  # the exit code that shells give for Ctrl-C


class Interrupted(KeyboardInterrupt):
    """An interruption whose message says how far the work has come."""


def interruption_before(error: BaseException) -> KeyboardInterrupt | None:
    """The interruption that an error is or came after, the latest one; None where there was none.

    It can come at any line. A library may then end with an error of its own, and where a signal goes to all processes,
    so do those that read files, which is an error as well.
    """
    return next((before for before in error_chain(error) if isinstance(before, KeyboardInterrupt)), None)


@contextmanager
def clean_end(way_on: str = "") -> Iterator[None]:
    """End the process at Ctrl-C or SIGTERM with one message, and the exit code that shells give for the signal.

    Args:
        way_on: a sentence on how to go on.
    """
    received: signal.Signals | None = None

    def stop_here(number: int, _: FrameType | None) -> None:
        nonlocal received
        received = signal.Signals(number)
        # Processes that read end with this one. PyTorch would take each for an error, and raise it at any line.
        if hasattr(signal, "SIGCHLD"):  # not on Windows
            signal.signal(signal.SIGCHLD, _no_news)
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # what a shell starts in the background has no Ctrl-C
            signal.signal(number, stop_here)
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        stop = interruption_before(error)
        if stop is None and received is None:  # Python drops an interruption that comes while it deletes an object
            raise
        done = f"{stop}." if isinstance(stop, Interrupted) else ""
        print(" ".join(part for part in ("interrupted.", done, way_on) if part), file=sys.stderr)
        sys.exit(128 + (received or signal.SIGINT))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _no_news(_: int, __: FrameType | None) -> None:
    """A handler, for a signal that Python has taken already must have one."""
