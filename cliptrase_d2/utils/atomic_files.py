"""Atomic writing: a file is complete or absent, however the writing process ends."""

from __future__ import annotations

import io
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO

from cliptrase_d2.utils.errors import InputError, WriteError
from cliptrase_d2.utils.interruption import find_interruption

_ANY_ID = "[0-9a-f]" * 32  # pattern of the identifier in the name of an unfinished file
_ABANDONED = 3600.0  # seconds; no file takes that long to write
_PROBE = b" " * 4096  # a full disk often still accepts an empty file


def atomic_write(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file, creating its folder; readers find the old content or the new, never a part.

    Args:
        path: of the file.
        write: is called with the open file.
    Raises:
        WriteError: the folder is not writable, or the disk is full; an existing file is left unchanged.
    """
    unfinished = path.with_name(_unfinished_name(path.name, uuid.uuid4().hex))
    with wrap_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write_checked(unfinished, write)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield the path of an unfinished file beside ``path``, which replaces it at the end of the block.

    For libraries that write to paths. The unfinished file is removed if the block raises.

    Raises:
        WriteError: the folder is not writable.
    """
    unfinished = path.with_name(_unfinished_name(path.name, uuid.uuid4().hex))
    with wrap_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield unfinished
        with wrap_os_errors(path):
            unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _write_checked(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file; raise the system's own error, or the interruption, even if a library replaced it."""
    disk = _Disk(path, "w")
    try:
        with io.BufferedWriter(disk) as file:
            write(file)
    except Exception as error:  # Pillow and torch.save raise their own errors for a full disk and for Ctrl-C
        cause = disk.error or find_interruption(error)
        if cause is None or cause is error:
            raise
        raise cause from error


def atomic_write_text(path: Path, text: str) -> None:
    """Write text in UTF-8 with ``atomic_write``."""
    atomic_write(path, lambda file: file.write(text.encode()))


def require_writable(folder: Path, where: str) -> None:
    """Create a folder, and check that files can be written to it, before a long computation.

    Args:
        folder: created if missing.
        where: the key or argument that names it, for the message.
    Raises:
        InputError: the folder is not writable, or the disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder, buffering=0) as probe:
            probe.write(_PROBE)
            probe.write(_PROBE)  # after one that the disk cut short
    except OSError as error:
        got = f"{str(folder)!r}, which cannot be written ({error.strerror or error})"
        raise InputError(where, got, "Choose another folder, free some space, or change its permissions.") from error


def remove_unfinished(folder: Path) -> None:
    """Remove the unfinished files of killed processes from a folder and its subfolders.

    No process may be writing there.
    """
    for path in folder.rglob(_unfinished_name("*", _ANY_ID)):
        path.unlink(missing_ok=True)


def remove_abandoned(folder: Path, name: str) -> None:
    """Remove old unfinished files from a folder that other processes may be writing to.

    Args:
        folder: without its subfolders.
        name: pattern of the names of the finished files.
    """
    for path in folder.glob(_unfinished_name(name, _ANY_ID)):
        with suppress(FileNotFoundError):  # another process removed it first
            if time.time() - path.stat().st_mtime > _ABANDONED:
                path.unlink()


def _unfinished_name(name: str, identifier: str) -> str:
    return f".{name}.{identifier}.tmp"


class _Disk(io.FileIO):
    """A file that keeps the system's error, and whose bytes all pass through Python."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.error = error
            raise

    def fileno(self) -> int:
        """Hide the descriptor. Libraries would write to it themselves, and Pillow truncate a JPEG without an error."""
        raise io.UnsupportedOperation("fileno")


@contextmanager
def wrap_os_errors(path: Path) -> Iterator[None]:
    """Turn the system's errors in the block into a ``WriteError`` that names the file.

    Args:
        path: of the file or folder that the block writes to.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:  # a WriteError, which names its file, or a library's own error
            raise
        raise WriteError.of(path, error) from error
