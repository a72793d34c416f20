"""Output on the terminal: quiet, verbose, and into a pipe that closes early. Light to import."""

from __future__ import annotations

import argparse
import logging
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout

_CLOSED_PIPE = 141  # exit code that shells report for it


def add_console_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --quiet and --verbose."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("-q", "--quiet", action="store_true", help="print warnings and errors only")
    group.add_argument("-v", "--verbose", action="store_true", help="also print log messages, and tracebacks of errors")


@contextmanager
def configured_console(arguments: argparse.Namespace) -> Iterator[None]:
    """Apply --quiet or --verbose. Exit silently if the reader of a pipe, such as ``head``, closes it."""
    if arguments.verbose:
        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    try:
        with _silenced() if arguments.quiet else nullcontext():
            yield
        sys.stdout.flush()
    except BrokenPipeError:
        if not _is_output_closed():  # a pipe to another process broke
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more at the end
        sys.exit(_CLOSED_PIPE)


def _is_output_closed() -> bool:
    """Return whether the standard output is a pipe without a reader."""
    watcher = select.poll()
    watcher.register(sys.stdout.fileno(), 0)  # errors are always reported
    return any(event & select.POLLERR for _, event in watcher.poll(0))


@contextmanager
def _silenced() -> Iterator[None]:
    before = os.environ.get("TQDM_DISABLE", "")
    os.environ["TQDM_DISABLE"] = "1"  # read when tqdm is imported, also by further processes
    try:
        with open(os.devnull, "w", encoding="utf-8") as nothing, redirect_stdout(nothing):
            yield
    finally:
        os.environ["TQDM_DISABLE"] = before  # tqdm ignores an empty value
