"""Checks of files that a user names."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from cliptrase_d2.utils.errors import InputError

CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # a terminal would obey it
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)  # pathlib joins the two slashes of https://
_MAX_TEXT = 2**26  # bytes; the longest list of a benchmark has 10^6


def check_readable(path: str | os.PathLike[str], fix: str = "Check the path.") -> None:
    """Raise unless a path is that of a file; opening a pipe or a device could block or never end.

    Args:
        path: of the file.
        fix: for the message.
    Raises:
        InputError: nothing exists there, or it is not accessible or not a file.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        check_address(path)
        raise InputError(path, "no such file", fix) from None
    except (OSError, ValueError) as error:  # no permission, a name that is too long; a NUL in the name
        raise InputError(path, f"unreadable ({getattr(error, 'strerror', None) or error})", fix) from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise InputError(path, f"unreadable (it is {kind})", fix)


def check_address(path: str | os.PathLike[str]) -> None:
    """Raise if a path, at which no file exists, is an address such as https://example.org/photo.jpg.

    Raises:
        InputError: it is.
    """
    if _ADDRESS.match(os.fspath(path)):
        got = "an address in a network, where a file is expected"
        raise InputError(path, got, "Download the file, for example with curl -O, and give its path.")


def check_name(path: Path) -> None:
    """Raise if a file name is not fit for reports, logs and terminals.

    Raises:
        InputError: the name is not in UTF-8, or has control characters such as a line break.
    """
    name = str(path)
    shown = CONTROL_CHARACTER.sub(lambda match: ascii(match[0])[1:-1], name).encode(errors="backslashreplace").decode()
    if shown != name:
        got = "a name that is not in UTF-8, or has control characters"
        raise InputError(shown, got, "Rename it (convmv changes the encoding of many).")


def read_text(path: str | os.PathLike[str]) -> str:
    """Read a text file.

    Raises:
        InputError: the file is not readable, not text in UTF-8, or of absurd length.
    """
    check_readable(path)
    try:
        length = os.stat(path).st_size
        if length > _MAX_TEXT:
            raise InputError(path, f"{length:,} bytes", "Check that this is the right file.", f"at most {_MAX_TEXT:,}")
        return Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(path, f"unreadable ({error})", "Save it as text in UTF-8.") from error
