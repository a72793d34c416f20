"""Names of the files that an evaluation writes for its images."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from cliptrase_d2.utils.errors import InputError


def find_output_base(file_names: Iterable[str], switch: str) -> str | None:
    """Return the folder below which images have distinct paths; None if their stems are distinct.

    Args:
        file_names: of the images that something is written for.
        switch: configuration key and value that turn the writing off.
    Raises:
        InputError: two images would write to the same file.
    """
    files = list(dict.fromkeys(file_names))
    if len({Path(file).stem for file in files}) == len(files):
        return None
    base = os.path.commonpath([os.path.abspath(os.path.dirname(file)) for file in files])
    first_with_name: dict[str, str] = {}
    for file in files:
        first = first_with_name.setdefault(get_output_name(file, base), file)
        if first is not file:
            got = f"the same name as {first}, so its results would overwrite the other's"
            raise InputError(file, got, f"Rename one of them, or set {switch}.")
    return base


def get_output_name(file_name: str, base: str | None) -> str:
    """Return the name of an image's files, without suffix: its stem, or its path below ``base``."""
    if base is None:
        return Path(file_name).stem
    return Path(os.path.relpath(os.path.abspath(file_name), base)).with_suffix("").as_posix()
