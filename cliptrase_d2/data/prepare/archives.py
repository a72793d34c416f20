"""Takes files out of the official archives."""

from __future__ import annotations

import errno
import hashlib
import lzma
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from tqdm import tqdm

from cliptrase_d2.utils.atomic_files import atomic_write
from cliptrase_d2.utils.errors import InputError

# Where a member of an archive goes, relative to the root; None for one that is not wanted.
Pick = Callable[[str], str | None]
_BROKEN = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError),
    *(ValueError, LookupError, RuntimeError),  # of names that are no text, and of archives with a password
)
# A place before its own beginning, a file that is a folder, too; and what has no number.
_OF_THE_ARCHIVE = (None, errno.EINVAL, errno.EISDIR, errno.ENOTDIR, errno.EEXIST)
# The official archives hold pictures, which are compressed already: labels of one value are what shrinks most. DEFLATE
# itself can shrink to a thousandth.
_MOST_GROWTH, _SMALL = 100, 2**30
_LONGEST_NAME = 255  # bytes, of most file systems
_AGAIN = "Download it again."


@dataclass(frozen=True)
class Archive:
    """An archive as its owners publish it.

    Attributes:
        file: its name.
        source: where it can be had.
        md5: of the file; None where no checksum is published.
    """

    file: str
    source: str
    md5: str | None = None

    def find(self, folder: Path) -> Path:
        """The archive in a folder.

        Raises:
            InputError: it is not there.
        """
        path = folder / self.file
        if not path.is_file():
            raise InputError(
                path, "no such archive", "Download it to this folder.", allowed=f"{self.file} from {self.source}"
            )
        return path


def check_md5(path: Path, expected: str) -> None:
    """Compare an archive with its published checksum.

    Raises:
        InputError: another one.
    """
    found = _md5(path)
    if found != expected:
        fix = f"{_AGAIN[:-1]}, or use --no-checksum for an archive that differs on purpose."
        raise InputError(path, f"the MD5 sum {found}", fix, allowed=expected)


def unpack(archive: Path, root: Path, pick: Pick) -> list[Path]:
    """Take the wanted files out of an archive; those that are there already, at their full size, stay.

    Args:
        archive: .zip, .tar, .tar.gz or .tgz.
        root: folder that ``pick`` counts from.
        pick: see ``Pick``.
    Returns:
        The files, whether they were there or not, in the order of the archive.
    Raises:
        InputError: an archive that is broken, unpacks to many times its size, has a file that would leave ``root``, or
            none that is wanted.
    """
    taken: list[Path] = []
    most = _MOST_GROWTH * archive.stat().st_size + _SMALL
    unpacked = 0
    with _explained(archive):
        for name, size, open_member in tqdm(_members(archive), desc=archive.name, unit="file", mininterval=1.0):
            unpacked += size
            if unpacked > most:
                got = f"files of more than {most:,} bytes, {_MOST_GROWTH} times the archive"
                raise InputError(archive, got, "Do not use this archive.", allowed="the official archive")
            place = pick(name)
            if place is None:
                continue
            target = _target(archive, root, place)
            if not (target.is_file() and target.stat().st_size == size):
                with open_member() as member:
                    atomic_write(target, lambda file, member=member: shutil.copyfileobj(member, file))  # type: ignore[misc]
            taken.append(target)
    if not taken:
        raise InputError(
            archive, "nothing that is wanted", "Check that it is the right one.", allowed="the official archive"
        )
    return taken


def below(folder: str, target: str, suffix: str = "") -> Pick:
    """Wants the files below a folder of the archive, put below another; only those that end in a suffix."""

    def pick(name: str) -> str | None:
        return (
            f"{target}/{name[len(folder) + 1 :]}" if name.startswith(f"{folder}/") and name.endswith(suffix) else None
        )

    return pick


def _members(archive: Path) -> Iterator[tuple[str, int, Callable[[], IO[bytes]]]]:
    """Name, size and opener of every plain file; folders, links, devices, and files with holes are none."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as opened:
            for info in opened.infolist():
                kind = stat.S_IFMT(info.external_attr >> 16)  # as Unix has it; 0 where another system wrote it
                if not info.is_dir() and kind in (0, stat.S_IFREG):
                    yield info.filename, info.file_size, lambda info=info: opened.open(info)  # type: ignore[misc]
        return
    with tarfile.open(archive, "r|*") as stream:  # one pass, for a compressed archive cannot be searched
        for member in stream:
            if member.isfile() and not member.issparse():
                yield member.name.removeprefix("./"), member.size, lambda member=member: stream.extractfile(member)  # type: ignore[misc]


def _target(archive: Path, root: Path, place: str) -> Path:
    parts = PurePosixPath(place).parts
    if not parts or ".." in parts or PurePosixPath(place).is_absolute() or "\\" in place:
        raise InputError(
            archive, f"the file {place!r} in it", "Do not use this archive.", allowed="files below its folders"
        )
    if any(len(part.encode()) > _LONGEST_NAME for part in parts) or "\0" in place:
        raise InputError(archive, f"a file whose name is {place[:60]!r}...", _AGAIN, allowed="names of files")
    return root.joinpath(*parts)


@contextmanager
def _explained(archive: Path) -> Iterator[None]:
    try:
        yield
    except InputError:  # a ValueError, or of the disk an OSError
        raise
    except _BROKEN as error:
        if isinstance(error, OSError) and error.errno not in _OF_THE_ARCHIVE:
            raise  # of the disk
        raise InputError(archive, f"a broken archive ({error})", _AGAIN, allowed="the whole of it") from error


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
