"""Serves `detectron2.utils.logger.setup_logger`."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable

from cliptrase_d2.utils.errors import WriteError

_PLAIN = "[%(asctime)s] %(name)s %(levelname)s: %(message)s"
_GREEN = "\033[32m[%(asctime)s %(name)s]:\033[0m %(message)s"


def setup_logger(
    output: str | None = None, distributed_rank: int = 0, *, color: bool = True, name: str = "cliptrase_d2"
) -> logging.Logger:
    """Let a logger write to the standard output (main process) and to a file (each process); again changes nothing.

    Args:
        output: a .txt or .log file, or the folder for a `log.txt`; other ranks than 0 add ".rank<n>".
        name: the root of the loggers concerned; Detectron2's default is "detectron2".
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    if distributed_rank == 0:
        line = _GREEN if color and sys.stdout.isatty() else _PLAIN  # codes for colours are noise in a file
        _add_once(logger, "stdout", lambda: logging.StreamHandler(sys.stdout), line)
    if output is not None:
        path = output if output.endswith((".txt", ".log")) else os.path.join(output, "log.txt")
        path = os.path.abspath(path + (f".rank{distributed_rank}" if distributed_rank > 0 else ""))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        _add_once(logger, path, lambda: _LogFile(path, encoding="utf-8"), _PLAIN)
    return logger


class _LogFile(logging.FileHandler):
    """Says once that the disk takes no more; logging's own way is a traceback for every line."""

    _is_full = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's own name
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._is_full:
            self._is_full = True
            print(f"warning: {WriteError.of(self.baseFilename, error)}", file=sys.stderr)


def _add_once(logger: logging.Logger, target: str, make: Callable[[], logging.Handler], line: str) -> None:
    key = f"{logger.name} to {target}"
    if key not in {handler.get_name() for handler in logger.handlers}:
        handler = make()
        handler.set_name(key)
        handler.setFormatter(logging.Formatter(line, datefmt="%m/%d %H:%M:%S"))
        logger.addHandler(handler)
