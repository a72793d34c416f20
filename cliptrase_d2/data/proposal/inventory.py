"""Inventory of a folder: its files by folder, without opening one."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cliptrase_d2.data.files import IMAGE_SUFFIXES, LABEL_SUFFIXES
from cliptrase_d2.utils.errors import InputError

PICTURE_SUFFIXES = frozenset({*IMAGE_SUFFIXES})
MASK_SUFFIXES = frozenset({*LABEL_SUFFIXES, ".bmp", ".npy"})
MEDIA_SUFFIXES = PICTURE_SUFFIXES | MASK_SUFFIXES
_MAX_FILES = 2_000_000
_MAX_DEPTH = 16  # folders below each other; the deepest public data sets have 8
_MAX_LISTED = 6  # kinds of files in a summary
_SKIPPED = {"__MACOSX", "Thumbs.db", "desktop.ini"}


@dataclass(frozen=True)
class Inventory:
    """The files of a folder.

    Attributes:
        root: the folder.
        files: folder relative to the root, "" for the root itself -> sorted names of its files.
    """

    root: Path
    files: Mapping[str, tuple[str, ...]]

    def paths(self, suffixes: Iterable[str]) -> list[str]:
        """Return the files with some suffixes, relative to the root, sorted by depth and name."""
        wanted = tuple(suffixes)
        found = [join(folder, name) for folder, names in self.files.items() for name in names if suffix(name) in wanted]
        return sorted(found, key=lambda path: (path.count("/"), path))

    def describe(self) -> str:
        """Return how many files of each kind there are, such as "12 .jpg, 3 .json"."""
        counts = Counter(suffix(name) or "without a suffix" for names in self.files.values() for name in names)
        kinds = [f"{count:,} {kind}" for kind, count in counts.most_common(_MAX_LISTED)]
        return ", ".join(kinds + ["others"] * (len(counts) > _MAX_LISTED)) or "no files"


def scan(root: Path) -> Inventory:
    """List the files of a folder and of its folders. Hidden files are left out, links are followed.

    Raises:
        InputError: a folder cannot be listed, or there are more than two million files.
    """
    files: dict[str, tuple[str, ...]] = {}
    count, seen = 0, set()
    waiting = [(root, "", 0)]
    while waiting:
        path, folder, depth = waiting.pop()
        names, folders, identity = _list(path)
        if identity in seen:  # a link to a folder above
            continue
        seen.add(identity)
        count += len(names)
        if count > _MAX_FILES:
            raise InputError(root, f"more than {_MAX_FILES:,} files", "Name the folder of one data set.")
        files[folder] = tuple(sorted(names))
        if depth < _MAX_DEPTH:
            waiting += [(path / name, join(folder, name), depth + 1) for name in sorted(folders, reverse=True)]
    return Inventory(root, {folder: names for folder, names in files.items() if names})


def _list(path: Path) -> tuple[list[str], list[str], tuple[int, int]]:
    """Return the files and folders of a folder, and its identity."""
    try:
        status = os.stat(path)
        with os.scandir(path) as found:
            entries = [entry for entry in found if not entry.name.startswith(".") and entry.name not in _SKIPPED]
        folders = [entry.name for entry in entries if entry.is_dir()]
    except OSError as error:
        raise InputError(path, f"cannot be listed ({error.strerror or error})", "Check its permissions.") from error
    taken = set(folders)
    return [entry.name for entry in entries if entry.name not in taken], folders, (status.st_dev, status.st_ino)


def join(folder: str, name: str) -> str:
    """Join two relative paths, of which the first may be empty."""
    return f"{folder}/{name}" if folder else name


def suffix(name: str) -> str:
    """Return the suffix of a file name in lower case, such as ".png"."""
    return os.path.splitext(name)[1].lower()
