"""Safe extraction of files from the official archives."""

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

# Name of an archive member -> path relative to the root, or None to leave the member out.
Pick = Callable[[str], str | None]
_ARCHIVE_ERRORS = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError),
    *(ValueError, LookupError, RuntimeError),  # names that are not text; archives with a password
)
# OSError codes of broken archives rather than of the disk: a seek before the start, a file that is also a folder.
_ARCHIVE_ERRNOS = (None, errno.EINVAL, errno.EISDIR, errno.ENOTDIR, errno.EEXIST)
# Limits for decompression bombs. DEFLATE can shrink a file to 1/1000. Of the official files, only labels shrink much.
_MAX_GROWTH, _FREE_BYTES = 100, 2**30
_MAX_NAME = 255  # bytes, on most file systems
_DOWNLOAD_AGAIN = "Download it again."
_DO_NOT_USE = "Do not use this archive; download the official one."


@dataclass(frozen=True)
class Archive:
    """A published archive.

    Attributes:
        file: its name.
        source: where to download it.
        md5: of the file; None if no checksum is published.
    """

    file: str
    source: str
    md5: str | None = None

    def find(self, folder: Path) -> Path:
        """Return the path of the archive in a folder.

        Raises:
            InputError: the archive does not exist.
        """
        path = folder / self.file
        if not path.is_file():
            raise InputError(path, "no such archive", f"Download it to this folder from {self.source}.")
        return path


def check_md5(path: Path, expected: str) -> None:
    """Compare an archive with its published checksum.

    Raises:
        InputError: they differ.
    """
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != expected:
        fix = "Download it again, or use --no-checksum for an archive that differs on purpose."
        raise InputError(path, f"the MD5 sum is {digest.hexdigest()}", fix, allowed=expected)


def unpack(archive: Path, root: Path, pick: Pick) -> list[Path]:
    """Extract files from an archive. Existing files of the same size are not extracted again.

    Args:
        archive: .zip, .tar, .tar.gz or .tgz.
        root: folder to extract to.
        pick: selects the members and their paths.
    Returns:
        Paths of the selected files, in the order of the archive.
    Raises:
        InputError: the archive is broken, unpacks to many times its size, has a member that would leave ``root``, or
            has no selected member.
    """
    files: list[Path] = []
    limit = _MAX_GROWTH * archive.stat().st_size + _FREE_BYTES
    unpacked = 0
    with _wrap_archive_errors(archive):
        for name, size, open_member in tqdm(
            _list_members(archive), desc=archive.name, unit="file", mininterval=1.0, disable=None
        ):
            unpacked += size
            if unpacked > limit:
                got = f"unpacks to more than {limit:,} bytes, {_MAX_GROWTH} times its size"
                raise InputError(archive, got, _DO_NOT_USE)
            place = pick(name)
            if place is None:
                continue
            target = _resolve(archive, root, place)
            if not (target.is_file() and target.stat().st_size == size):
                with open_member() as member:
                    atomic_write(target, lambda file, member=member: shutil.copyfileobj(member, file))  # type: ignore[misc]
            files.append(target)
    if not files:
        raise InputError(archive, "contains none of the expected files", "Check that it is the right archive.")
    return files


def pick_below(folder: str, target: str, suffix: str = "") -> Pick:
    """Return a function that selects the files below a folder of an archive, by suffix, and moves them to another."""

    def pick(name: str) -> str | None:
        is_selected = name.startswith(f"{folder}/") and name.endswith(suffix)
        return f"{target}/{name[len(folder) + 1 :]}" if is_selected else None

    return pick


def _list_members(archive: Path) -> Iterator[tuple[str, int, Callable[[], IO[bytes]]]]:
    """Yield name, size and opener of every regular file. Folders, links, devices and sparse files are left out."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as zipped:
            for info in zipped.infolist():
                kind = stat.S_IFMT(info.external_attr >> 16)  # Unix mode; 0 if another system wrote the archive
                if not info.is_dir() and kind in (0, stat.S_IFREG):
                    yield info.filename, info.file_size, lambda info=info: zipped.open(info)  # type: ignore[misc]
        return
    with tarfile.open(archive, "r|*") as stream:  # one pass, because seeking in a compressed archive is slow
        for member in stream:
            if member.isfile() and not member.issparse():
                yield member.name.removeprefix("./"), member.size, lambda member=member: stream.extractfile(member)  # type: ignore[misc]


def _resolve(archive: Path, root: Path, place: str) -> Path:
    """Return the path of a member below ``root``. Raise if it would be elsewhere."""
    parts = PurePosixPath(place).parts
    if not parts or ".." in parts or PurePosixPath(place).is_absolute() or "\\" in place:
        raise InputError(archive, f"the path {place!r} of a file leads out of the archive's folder", _DO_NOT_USE)
    if any(len(part.encode()) > _MAX_NAME for part in parts) or "\0" in place:
        raise InputError(archive, f"invalid file name {place[:60]!r}...", _DOWNLOAD_AGAIN)
    return root.joinpath(*parts)


@contextmanager
def _wrap_archive_errors(archive: Path) -> Iterator[None]:
    try:
        yield
    except InputError:  # a ValueError or, for the disk, an OSError
        raise
    except _ARCHIVE_ERRORS as error:
        if isinstance(error, OSError) and error.errno not in _ARCHIVE_ERRNOS:
            raise  # an error of the disk
        raise InputError(archive, f"a broken archive ({error})", _DOWNLOAD_AGAIN) from error
