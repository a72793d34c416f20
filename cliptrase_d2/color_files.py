"""Colour tables of annotation tools: class names and the colours of their pixels."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cliptrase_d2.utils.errors import InputError

Color = tuple[int, int, int]
ColorTable = list[tuple[str, Color]]

COLOR_FORMS = (
    "CVAT's labelmap.txt; CamVid's class_dict.csv and label_colors.txt; a CSV with the columns name, r, g, b; "
    "Supervisely's obj_class_to_machine_color.json or meta.json; JSON of names and colours"
)
_CVAT = re.compile(r"([^:]+):(\d+),(\d+),(\d+):[^:]*:[^:]*")  # name:red,green,blue:parts:actions
_CAMVID = re.compile(r"(\d+)\s+(\d+)\s+(\d+)\s+(\S.*)")
_NUMBER = re.compile(r"[0-9]{1,3}")
_HEX = re.compile(r"#([0-9a-f]{6})", re.IGNORECASE)
_CHANNELS = (("r", "g", "b"), ("red", "green", "blue"))
_NAMES, _LISTS = ("name", "readable", "title", "label", "class"), ("classes", "labels", "categories")


def parse_color(value: object) -> Color | None:
    """Return a colour as (red, green, blue), each 0 to 255; None if the value is none.

    Args:
        value: three numbers, ``"r,g,b"``, or hexadecimal digits such as ``"#33ddff"``.
    """
    if isinstance(value, str):
        if match := _HEX.fullmatch(value.strip()):
            red, green, blue = bytes.fromhex(match[1])
            return red, green, blue
        parts: Sequence[Any] = [int(part) for part in value.split(",") if _NUMBER.fullmatch(part.strip())]
        parts = parts if len(parts) == value.count(",") + 1 else ()
    else:
        parts = value if isinstance(value, list | tuple) else ()
    is_color = len(parts) == 3 and all(type(part) is int and 0 <= part <= 255 for part in parts)
    return (parts[0], parts[1], parts[2]) if is_color else None


def find_color_table(text: str, where: object) -> ColorTable | None:
    """Return the names and colours of a table of ``COLOR_FORMS`` in the order of the file; None for another text.

    Args:
        text: content of a file.
        where: source of the text, for error messages.
    Raises:
        InputError: a line of a table has no valid colour.
    """
    if text.lstrip().startswith(("{", "[")):
        return _find_in_json(text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return None
    if lines[0].startswith("# label:color_rgb") or all(map(_CVAT.fullmatch, lines)):
        pattern, places = _CVAT, (1, 2, 3, 4)
    elif all(map(_CAMVID.fullmatch, lines)):
        pattern, places = _CAMVID, (4, 1, 2, 3)
    else:
        return _find_in_csv(lines, where)
    table = []
    for line in lines:
        if not line.startswith("#"):
            match = pattern.fullmatch(line)
            name, *channels = [match[place] for place in places] if match else [line]
            table.append(_check(name, channels, where))
    return table


def _find_in_csv(lines: list[str], where: object) -> ColorTable | None:
    separator = next((sign for sign in "\t,;" if sign in lines[0]), ",")
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=separator)]
    header = [cell.lower() for cell in rows[0]]
    name = next((header.index(column) for column in _NAMES if column in header), None)
    channels = next((columns for columns in _CHANNELS if set(columns) <= set(header)), None)
    if name is None or channels is None:
        return None
    places = [header.index(channel) for channel in channels]
    if short := next((row for row in rows if len(row) != len(header)), None):
        got = f"a table in which {','.join(short)!r} has {len(short)} columns, but the header has {len(header)}"
        raise InputError(where, got, "Quote names that contain the separator.")
    return [_check(row[name], [row[place] for place in places], where) for row in rows[1:]]


def _find_in_json(text: str) -> ColorTable | None:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):  # `read_class_file` describes the error
        return None
    pairs = list(_list_json(content))
    table = [(name, color) for name, value in pairs if isinstance(name, str) and (color := parse_color(value))]
    return table if table and len(table) == len(pairs) else None


def _list_json(content: Any) -> Iterator[tuple[Any, Any]]:
    """Yield name and colour of each entry of a JSON table. Entries of another form have a colour of None."""
    if isinstance(content, Mapping):
        entries = next((content[key] for key in _LISTS if isinstance(content.get(key), list)), None)
        if entries is None:
            yield from content.items()
            return
        content = entries
    for entry in content:
        fields = entry if isinstance(entry, Mapping) else {}
        yield next((fields[key] for key in _NAMES if key in fields), None), fields.get("color")


def _check(name: str, channels: Sequence[str], where: object) -> tuple[str, Color]:
    color = parse_color([int(channel) if _NUMBER.fullmatch(channel) else -1 for channel in channels])
    if color is None:
        got = f"no colour for {name!r}"
        raise InputError(where, got, "Write red, green and blue as three numbers from 0 to 255.", allowed=COLOR_FORMS)
    return name.strip(), color
