"""Files of class names: one name per line, or a table as other tools write it."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cliptrase_d2.color_files import find_color_table
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.user_files import read_text

_NAME_COLUMNS = ("name", "class", "class name", "class_name", "label", "category")
_INDEX_COLUMNS = ("id", "index", "pixel value", "value", "class id", "class_id", "trainid", "train_id")
_NUMBERED = re.compile(r"(\d+)\s*[:,;\t]\s*(\S.*)")  # "0: water"
_FORMS = (
    "one name per line; a JSON list, or a dict of indices; a CSV with a column 'name' or 'class'; a table of colours"
)


def read_class_file(path: Path) -> tuple[str, ...]:
    """Read the class names of a file, in the order of their indices. `Vocabulary.parse` splits the synonyms.

    Besides one class per line, these forms are read: lines such as ``0: water``; a JSON list of names; a JSON dict such
    as ``{"0": "water"}`` or ``{"water": 0}``; and a CSV table with a column of names, such as Roboflow's
    ``_classes.csv`` and CamVid's ``class_dict.csv``. Colours and other columns are ignored. The names of COCO's
    ``categories`` and of the tables of `cliptrase_d2.color_files` are read, too.

    Raises:
        InputError: the file does not exist, has an empty line before the last class, or is a table in another form or
            whose indices are not 0, 1, 2, ….
    """
    return split_class_text(read_text(path), path)


def split_class_text(text: str, where: object) -> tuple[str, ...]:
    """Return the class names of a text as ``read_class_file`` does.

    Args:
        text: content of a file.
        where: source of the text, for error messages.
    Raises:
        InputError: as ``read_class_file``.
    """
    if text.lstrip().startswith(("[", "{")):
        return _read_json(text, where)
    lines = [line.strip() for line in text.rstrip().splitlines()]
    if "" in lines:
        # An empty line is not skipped: every class after it would get another index.
        raise InputError(where, f"line {lines.index('') + 1} is empty", "Remove the line or write a class name in it.")
    separator, header = _find_header(lines)
    if header:
        return _read_table(lines, separator, header, where)
    if table := find_color_table(text, where):
        return tuple(name for name, _ in table)
    numbered = [_NUMBERED.fullmatch(line) for line in lines]
    if any(numbered):
        if not all(numbered):
            line = lines[numbered.index(None)]
            raise InputError(where, f"a list in which some lines are numbered, but not {line!r}", "Number all or none.")
        return sort_names(((match[1], match[2]) for match in numbered if match), where)
    return tuple(lines)


def _read_json(text: str, where: object) -> tuple[str, ...]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise InputError(where, f"JSON that cannot be read ({error})", "Export it again.", allowed=_FORMS) from error
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        return tuple(content)
    if table := find_color_table(text, where):
        return tuple(name for name, _ in table)
    if isinstance(content, Mapping) and all(isinstance(name, str) for name in content.values()):
        return sort_names(content.items(), where)
    if isinstance(content, Mapping) and all(isinstance(index, int) for index in content.values()):
        return sort_names(((index, name) for name, index in content.items()), where)
    categories = content.get("categories") if isinstance(content, Mapping) else None
    names = [entry.get("name") if isinstance(entry, Mapping) else None for entry in categories or ()]
    if names and all(isinstance(name, str) for name in names):
        return tuple(map(str, names))
    raise InputError(where, "JSON with neither a list of names nor a dict of indices", "Convert it.", allowed=_FORMS)


def _find_header(lines: list[str]) -> tuple[str, list[str]]:
    """Return the separator and the columns of a table; no columns for a list of names."""
    separator = next((sign for sign in "\t,;" if lines and sign in lines[0]), "")
    header = [cell.strip().lower() for cell in lines[0].split(separator)] if separator else []
    is_table = any(cell in _NAME_COLUMNS for cell in header)
    if separator == ";":  # which also separates synonyms
        is_table = is_table and any(cell in _INDEX_COLUMNS for cell in header)
    return separator, header if is_table else []


def _read_table(lines: list[str], separator: str, header: list[str], where: object) -> tuple[str, ...]:
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines[1:], delimiter=separator)]
    broken = next((index for index, row in enumerate(rows, 2) if len(row) != len(header)), None)
    if broken is not None:
        got = f"a table whose line {broken} has {len(rows[broken - 2])} columns, but whose header has {len(header)}"
        raise InputError(where, got, "Quote names that contain the separator.")
    names = [row[next(place for place, cell in enumerate(header) if cell in _NAME_COLUMNS)] for row in rows]
    place = next((place for place, cell in enumerate(header) if cell in _INDEX_COLUMNS), None)
    if place is None:
        return tuple(names)
    return sort_names(((row[place], name) for row, name in zip(rows, names, strict=True)), where)


def sort_names(pairs: Iterable[tuple[Any, str]], where: object) -> tuple[str, ...]:
    """Return the names of pairs (index, name) in the order of their indices.

    Args:
        pairs: in any order.
        where: their source, for error messages.
    Raises:
        InputError: the indices are not 0, 1, 2, ….
    """
    pairs = list(pairs)
    if not all(re.fullmatch(r"\s*[0-9]{1,9}\s*", str(index)) for index, _ in pairs):
        raise InputError(where, f"indices such as {pairs[0][0]!r}", "Write whole numbers.", allowed=_FORMS)
    by_index = {int(index): name for index, name in pairs}
    if sorted(by_index) != list(range(len(pairs))):
        got = f"{len(pairs)} classes with indices from {min(by_index)} to {max(by_index)}, not 0 to {len(pairs) - 1}"
        fix = "Write one name per line in the order of the classes, and set label_map for the values in the files."
        raise InputError(where, got, fix)
    return tuple(by_index[index] for index in range(len(pairs)))
