"""Clean exit on Ctrl-C and SIGTERM."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from cliptrase_d2.utils.errors import error_chain

INTERRUPTED = 128 + signal.SIGINT  # exit code that shells report for Ctrl-C


class Interrupted(KeyboardInterrupt):
    """An interruption whose message reports the progress so far."""


def find_interruption(error: BaseException) -> KeyboardInterrupt | None:
    """Return the latest interruption among an error and those that it followed, or None.

    A signal can strike at any line. The library that was running may then raise an error of its own. A signal to all
    processes also ends the worker processes, which is an error as well.
    """
    return next((cause for cause in error_chain(error) if isinstance(cause, KeyboardInterrupt)), None)


@contextmanager
def exit_on_interrupt(hint: str = "") -> Iterator[None]:
    """Exit at Ctrl-C or SIGTERM with one message, and with the exit code that shells report for the signal.

    Args:
        hint: a sentence on how to continue.
    """
    received: signal.Signals | None = None

    def interrupt(number: int, _: FrameType | None) -> None:
        nonlocal received
        received = signal.Signals(number)
        # Worker processes end with this one. PyTorch's handler would raise an error for each, at any line.
        # Unlike SIG_IGN, a function also covers a signal that is already pending in Python.
        if hasattr(signal, "SIGCHLD"):  # not on Windows
            signal.signal(signal.SIGCHLD, lambda *_: None)
        raise KeyboardInterrupt

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in handlers.items():
        if handler is not signal.SIG_IGN:  # a shell's background jobs ignore Ctrl-C
            signal.signal(number, interrupt)
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        stop = find_interruption(error)
        if stop is None and received is None:  # Python drops an interruption that strikes while an object is deleted
            raise
        progress = f"{stop}." if isinstance(stop, Interrupted) else ""
        print(" ".join(filter(None, ("interrupted.", progress, hint))), file=sys.stderr)
        sys.exit(128 + (received or signal.SIGINT))
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
