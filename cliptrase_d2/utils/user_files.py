"""Files that a user names, looked at before they are opened."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from cliptrase_d2.utils.errors import InputError

# A terminal would obey them.
CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f]")
MISSING = "no such file"
_MOST_TEXT = 2**26  # bytes; the longest list of a benchmark has 10^6


def fault_of(path: str | os.PathLike[str]) -> str:
    """Why a path cannot be read as a file, "" if it can: to open a pipe or a device would wait, or read, for ever."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return MISSING
    except (OSError, ValueError) as error:  # no permission, a name that is too long; a NUL in it
        return f"unreadable ({getattr(error, 'strerror', None) or error})"
    if stat.S_ISREG(mode):
        return ""
    return "unreadable (it is a folder)" if stat.S_ISDIR(mode) else "unreadable (it is a pipe or a device, no file)"


def check_name(path: Path) -> None:
    """Refuse a name that reports, logs and terminals could not have as it is.

    Raises:
        InputError: it is not in UTF-8, or has control characters, such as the end of a line.
    """
    name = str(path)
    shown = CONTROL_CHARACTER.sub(lambda found: ascii(found[0])[1:-1], name).encode(errors="backslashreplace").decode()
    if shown != name:
        got = "a name that is not in UTF-8, or has control characters"
        raise InputError(shown, got, "Rename it (convmv changes the encoding of many).", allowed="names of letters")


def read_text(path: str | os.PathLike[str]) -> str:
    """A text file of a user.

    Raises:
        InputError: no such file, no text, or one of absurd length.
    """
    fault = fault_of(path)
    if fault:
        allowed = "an existing text file" if fault == MISSING else "a text file in UTF-8"
        raise InputError(path, fault, "Check the path.", allowed=allowed)
    try:
        length = os.stat(path).st_size
        if length > _MOST_TEXT:
            raise InputError(
                path, f"{length:,} bytes", "Check that it is the file you mean.", allowed=f"at most {_MOST_TEXT:,}"
            )
        return Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(path, f"unreadable ({error})", "Check the file.", allowed="a text file in UTF-8") from error
