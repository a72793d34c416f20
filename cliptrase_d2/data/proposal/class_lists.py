"""Files of a folder that name the classes, and whether they fit the labels."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from cliptrase_d2.class_files import read_class_file, split_class_text
from cliptrase_d2.color_files import Color, find_color_table
from cliptrase_d2.data.proposal.content import LabelFacts
from cliptrase_d2.data.proposal.inventory import Inventory
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.user_files import read_text

_MAX_BYTES = 2**20
_MAX_FILES = 300
_NAMED = re.compile(
    r"class|label|category|categories|names|objectinfo|vocab|legend|palette|colou?r|meta\.json|config\.json", re.I
)
_NUMBERED = re.compile(r"(\d+)[\s:,;]+(.*[^\W\d_].*)")  # "1: water", and a row of ADE20K's objectInfo150.txt
VOID = frozenset({"void", "unlabeled", "unlabelled", "ignore", "ignored", "border", "_ignore_", "__ignore__"})
BACKGROUND = frozenset({"background", "_background_", "bg", "none"})


@dataclass(frozen=True)
class ClassTable:
    """A file of class names.

    Attributes:
        path: relative to the root.
        names: in the order of the file.
        first: value in the labels of the first class, 0 or 1.
        colors: of the names, if the file has them.
        is_readable: whether ``read_class_file`` reads the file.
    """

    path: str
    names: tuple[str, ...]
    first: int = 0
    colors: Mapping[str, Color] = field(default_factory=dict)
    is_readable: bool = True

    @property
    def value(self) -> str | list[str]:
        """The value of the key ``classes``: the path, or the names if the file must be rewritten."""
        return self.path if self.is_readable else list(self.names)

    @property
    def last(self) -> int:
        """The value in the labels of the last class."""
        return self.first + len(self.names) - 1

    @property
    def greys(self) -> dict[int, int]:
        """Index of the class of each grey value, if all colours are grey, as in the masks of Supervisely."""
        values = [self.colors[name] for name in self.names] if self.colors else []
        is_grey = all(len(set(color)) == 1 for color in values)
        return {color[0]: index for index, color in enumerate(values)} if is_grey else {}


def find_tables(inventory: Inventory, stems: Collection[str]) -> list[ClassTable]:
    """Return the class lists of a folder, those near the root first.

    Args:
        inventory: of the folder.
        stems: of the pictures. A text file that lists them is no class list.
    """
    tables = []
    for path in inventory.paths((".txt", ".csv", ".json", ".names"))[:_MAX_FILES]:
        name = path.rpartition("/")[2]
        file = inventory.root / path
        if not _NAMED.search(name) or "readme" in name.lower() or file.stat().st_size > _MAX_BYTES:
            continue
        try:
            table = read_table(path, read_text(file), inventory)
        except (InputError, RecursionError):  # another kind of file
            continue
        listed = sum(entry.rpartition("/")[2].rpartition(".")[0] in stems or entry in stems for entry in table.names)
        if table.names and not listed:
            tables.append(table)
    return tables


def read_table(path: str, text: str, inventory: Inventory) -> ClassTable:
    """Read a class list as `read_class_file` does, or with classes numbered from 1.

    Raises:
        InputError: the text is no class list.
    """
    where = inventory.root / path
    colors = find_color_table(text, where)
    if colors:
        return ClassTable(path, tuple(name for name, _ in colors), colors=dict(colors))
    if text.lstrip().startswith("{"):
        text = _unwrap(text, where)
    rows = [match for line in text.splitlines() if (match := _NUMBERED.fullmatch(line.strip()))]
    first = 1 if rows and [int(row[1]) for row in rows] == list(range(1, len(rows) + 1)) else 0
    names = tuple(row[2].strip() for row in rows)
    try:
        return ClassTable(path, read_class_file(where), first)
    except InputError:
        if first:
            return ClassTable(path, names, first, is_readable=False)
        return ClassTable(path, split_class_text(text, where), is_readable=False)


def _unwrap(text: str, where: object) -> str:
    """Return the lines "index: name" of the ``id2label`` in JSON, else the text."""
    try:
        content = json.loads(text)
    except ValueError as error:
        raise InputError(where, f"JSON that cannot be read ({error})", "Export it again.") from error
    labels = content.get("id2label", content) if isinstance(content, dict) else {}
    pairs = [(int(key), name) for key, name in labels.items() if str(key).isdecimal() and isinstance(name, str)]
    return "\n".join(f"{index}: {name}" for index, name in sorted(pairs)) if pairs else text


def is_void(name: str) -> bool:
    """Return whether a class name means pixels without a label."""
    return name.strip().lower() in VOID


def is_background(name: str) -> bool:
    """Return whether a class name means all that is no other class."""
    return name.strip().lower() in BACKGROUND


def choose_table(tables: list[ClassTable], facts: LabelFacts, folders: Collection[str]) -> ClassTable | None:
    """Return the class list that fits the labels best; None without one.

    Args:
        tables: all lists.
        facts: of the labels.
        folders: of pictures and labels. A list above one of them is preferred.
    """

    def get_rank(table: ClassTable) -> tuple[object, ...]:
        folder = table.path.rpartition("/")[0]
        is_above = any(f"{other}/".startswith(f"{folder}/") or not folder for other in folders)
        return -fits(table, facts), not is_above, -folder.count("/") if is_above else 0, not table.colors, table.path

    fitting = [table for table in tables if fits(table, facts)]
    return min(fitting, key=get_rank, default=None)


def fits(table: ClassTable, facts: LabelFacts) -> int:
    """Return how well a class list fits: 3 if it numbers the values found, 0 if it cannot fit.

    2 means that all colours found have names, or that the last class occurs; 1 that half of the colours have names, or
    that the values are smaller.
    """
    if facts.colors:
        known = set(table.colors.values())
        share = len(known & set(facts.colors)) / len(facts.colors)
        return 2 if share == 1 else 1 if share >= 0.5 else 0
    values = [value for value in facts.values if 0 <= value < 255 or value in range(table.first, table.last + 1)]
    top = max(values, default=0)
    if table.greys:
        return 3 if set(facts.values) <= {*table.greys, 0, 255} else 0
    if set(facts.values) == {0, 255} and len(table.names) <= 2:
        return 2
    if top in (table.last, len(table.names)) and not (table.first and top > table.last):
        return 2
    return int(top <= table.last)
