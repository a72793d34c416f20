"""Reading of JSON files of other tools, and of their values."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cliptrase_d2.utils.errors import InputError, first_line
from cliptrase_d2.utils.user_files import check_readable

_MAX_BYTES = 2**31  # COCO's largest file, of 118,287 images, has 0.5 GB


def load_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        InputError: the file is unreadable, not JSON, nested too deeply or too large.
    """
    check_readable(path)
    length = path.stat().st_size
    if length > _MAX_BYTES:
        raise InputError(path, f"{length:,} bytes", "Split the file.", allowed=f"at most {_MAX_BYTES:,}")
    try:
        return json.loads(path.read_bytes())  # also UTF-16, and UTF-8 with a byte-order mark
    except (ValueError, RecursionError, MemoryError, OSError) as error:
        problem = "nested too deeply" if isinstance(error, RecursionError) else first_line(error)
        raise InputError(path, f"JSON that cannot be read ({problem})", "Export it again.") from error


def get_value(entry: Any, key: str, kinds: type | tuple[type, ...], where: object) -> Any:
    """Return a value of a JSON object.

    Args:
        entry: the object.
        key: of the value.
        kinds: accepted types. A bool is no int.
        where: place of the object, for the message.
    Raises:
        InputError: the object is none, or the value is missing or of another type.
    """
    if not isinstance(entry, Mapping):
        raise InputError(where, f"{shorten(entry)} in place of an object with {key!r}", "Export the file again.")
    value = entry.get(key)
    if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
        got = f"no {key!r}" if key not in entry else f"{key} {shorten(value)}"
        raise InputError(where, got, "Export the file again, or correct this value.")
    return value


def get_size(entry: Any, where: object, keys: tuple[str, str] = ("height", "width")) -> tuple[int, int] | None:
    """Return the (height, width) that a JSON object states; None if it states neither.

    Raises:
        InputError: a side is not a positive whole number.
    """
    if isinstance(entry, Mapping) and all(entry.get(key) is None for key in keys):
        return None
    sides = [get_value(entry, key, (int, float), where) for key in keys]
    if not all(side > 0 and side == side // 1 for side in sides):
        raise InputError(where, f"a size of {sides[1]} x {sides[0]} pixels", "Export the file again.")
    return int(sides[0]), int(sides[1])


def shorten(value: object) -> str:
    """Return a value for a message, with at most 60 characters."""
    text = repr(value) if not isinstance(value, dict | list) else f"a {type(value).__name__} of {len(value)}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def require_unique(values: Iterable[Any], what: str, where: object, fix: str) -> None:
    """Raise if a value appears twice.

    Args:
        values: hashable.
        what: they are, such as "images with the id".
        where: file, for the message.
        fix: for the message.
    Raises:
        InputError: one does.
    """
    seen = set()
    for value in values:
        if value in seen:
            raise InputError(where, f"two {what} {shorten(value)}", fix)
        seen.add(value)
