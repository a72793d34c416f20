"""Files that are whole or not there, whatever ends the process that writes them."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

UNFINISHED = ".tmp"


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file, and its folder, so that a reader sees the old one or the new one and never a part.

    Args:
        path: of the file.
        write: is given the open file.
    Raises:
        OSError: the folder cannot be written, or the disk is full; an earlier file is then as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}{UNFINISHED}")
    try:
        with unfinished.open("wb") as file:
            write(file)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_whole_text(path: Path, text: str) -> None:
    """The same for text, in UTF-8."""
    write_whole(path, lambda file: file.write(text.encode()))


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes left behind in a folder and in those below. None may be writing there now."""
    for path in folder.rglob(f".*{UNFINISHED}"):
        path.unlink(missing_ok=True)
