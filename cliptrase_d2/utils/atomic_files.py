"""Files that are whole or not there, whatever ends the process that writes them."""

from __future__ import annotations

import io
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from cliptrase_d2.utils.errors import InputError, WriteError
from cliptrase_d2.utils.interruption import interruption_before

_ANY = "[0-9a-f]" * 32  # pattern of the word that tells unfinished files apart
_ABANDONED = 3600.0  # seconds; no file here takes as long to write
_PROBE = b" " * 4096  # a disk without room often still takes an empty file


def atomic_write(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file, and its folder, so that a reader sees the old one or the new one and never a part.

    Args:
        path: of the file.
        write: is given the open file.
    Raises:
        WriteError: the folder cannot be written, or the disk is full; an earlier file is then as it was.
    """
    unfinished = path.with_name(_unfinished_name(path.name, uuid.uuid4().hex))
    with wrap_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write_checked(unfinished, write)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


def _write_checked(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file; a refusal of the system and an interruption come out as such, whatever a library makes of them."""
    disk = _Disk(path, "w")
    try:
        with _Checked(disk) as file:
            write(file)
    except Exception as error:  # Pillow and torch.save have errors of their own for a full disk and for Ctrl-C
        reason = disk.refusal or interruption_before(error)
        if reason is None or reason is error:
            raise
        raise reason from error


def atomic_write_text(path: Path, text: str) -> None:
    """The same for text, in UTF-8."""
    atomic_write(path, lambda file: file.write(text.encode()))


def require_writable(folder: Path, where: str) -> None:
    """Make a folder, and refuse one that no file can be written to, before any work is done for it.

    Args:
        folder: made where it is missing.
        where: the key or argument that names it, for the message.
    Raises:
        InputError: a place that cannot be written, or a disk without room.
    """
    probe = folder / _unfinished_name("probe", uuid.uuid4().hex)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(_PROBE)
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        got = f"{str(folder)!r}, which cannot be written ({error.strerror or error})"
        fix = "Choose another, or make room or change its permissions."
        raise InputError(where, got, fix, allowed="a folder that can be written, on a disk with room") from error


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes left behind in a folder and in those below. None may be writing there now."""
    for path in folder.rglob(_unfinished_name("*", _ANY)):
        path.unlink(missing_ok=True)


def remove_abandoned(folder: Path, name: str) -> None:
    """Remove what killed processes left behind in a folder where others may be writing: what has long not changed.

    Args:
        folder: those below it are left alone.
        name: pattern of the files that were to be written.
    """
    for path in folder.glob(_unfinished_name(name, _ANY)):
        with suppress(FileNotFoundError):  # another process was quicker
            if time.time() - path.stat().st_mtime > _ABANDONED:
                path.unlink()


def _unfinished_name(name: str, word: str) -> str:
    return f".{name}.{word}.tmp"


class _Disk(io.FileIO):
    """A file that remembers what the system refused it."""

    refusal: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.refusal = error
            raise


class _Checked(io.BufferedWriter):
    """A file whose bytes all pass through Python, which notices when the disk takes only some of them.

    Libraries that are given a descriptor write to it themselves, and Pillow's JPEG is then cut short without an error.
    """

    def fileno(self) -> int:
        raise io.UnsupportedOperation("fileno")


@contextmanager
def wrap_os_errors(path: Path) -> Iterator[None]:
    """Turn what the system says of a disk into a sentence that names the file.

    Args:
        path: what is being written.
    Raises:
        WriteError: the system refused something.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:  # a WriteError, which names its file, or a library's own
            raise
        raise WriteError.of(path, error) from error
