"""Keys of a data-set file that say what label values mean, from a sample of the labels and the class lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cliptrase_d2.color_files import Color
from cliptrase_d2.data.label_colors import get_ready_table
from cliptrase_d2.data.proposal.class_lists import ClassTable, is_background, is_void
from cliptrase_d2.data.proposal.content import LabelFacts
from cliptrase_d2.data.proposal.words import count

_MAX_LISTED = 256  # classes that are written into the file
_MAX_COLORS = 64  # of classes without a table
_SHOWN = 12  # values in a comment
_IGNORE, _IGNORE_16_BIT = 255, 65535
_CITYSCAPES_CLASSES = 19
# Label id of each evaluated class of Cityscapes, and the largest of all ids. The license plate has -1.
_CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_CITYSCAPES_LAST = 34


@dataclass
class Draft:
    """A data-set file in the making.

    Attributes:
        keys: of the file, with their values.
        reasons: why a key has its value.
        notes: what is uncertain, or else to know.
    """

    keys: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def set(self, key: str, value: Any, reason: str) -> None:
        """Set a key, with the reason for it."""
        self.keys[key] = value
        self.reasons[key] = reason

    def set_placeholders(self, values: Sequence[int]) -> None:
        """Set classes named after the values in the label files."""
        names = [f"class_{value}" for value in values]
        listed = names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}"
        self.set("classes", names, f"no class list was found. The classes are named {listed}: replace the names")


def _describe(table: ClassTable) -> str:
    return f"the {len(table.names)} names of {table.path}"


def describe_values(facts: LabelFacts) -> str:
    """Return which values or colours were found in how many files."""
    if not facts.files:
        return f"none of {count(len(facts.broken), 'file')} could be read"
    modes = "/".join(facts.modes)
    looked = f"in {count(facts.files, 'file')} that {'was' if facts.files == 1 else 'were'} looked at ({modes})"
    if facts.colors:
        return f"{len(facts.colors)} colours {looked}"
    values = sorted(facts.values)
    if len(values) > 2 and values[-1] - values[0] + 1 == len(values):
        return f"values {values[0]} to {values[-1]} {looked}"
    shown = ", ".join(map(str, values[:_SHOWN])) + (f", … {values[-1]}" if len(values) > _SHOWN else "")
    return f"values {shown} {looked}"


def set_label_keys(draft: Draft, facts: LabelFacts, table: ClassTable | None, layout: str) -> None:
    """Set the class list, and the keys that say what the values in label files mean.

    Args:
        draft: changed in place.
        facts: of a sample of the label files.
        table: class list that fits them.
        layout: "cityscapes" or "voc" if names of files prove it, else "".
    """
    if facts.colors:
        _set_colors(draft, facts, table, layout)
        return
    if not facts.files:
        draft.set_placeholders((0, 1))
        return
    values = _set_ignore_label(draft, facts)
    if set(values) <= {0, 1, 255} and (table is None or (len(table.names) <= 2 and not table.greys)):
        _set_two_classes(draft, values, table)
    elif table is not None and table.greys:
        _set_greys(draft, facts, table)
    elif table is not None:
        _set_table(draft, values, table, has_ignored=_IGNORE in facts.values)
    elif not _set_cityscapes(draft, facts, layout):
        _set_unnamed(draft, values, layout)
    if len(facts.values) == 1:
        draft.notes.append(f"The only value is {values[0] if values else _IGNORE}: check that these are the labels.")


def _set_ignore_label(draft: Draft, facts: LabelFacts) -> list[int]:
    """Set the ignore label unless it is 255. Return the other values, and 255 if only 0 is beside it."""
    values = sorted(value for value in facts.values if -(2**31) <= value < 2**31)  # without the nodata of GeoTIFF
    if values and values[0] < 0:
        draft.set("ignore_label", values[0], f"{values[0]} occurs and can be no class")
        return [value for value in values if value >= 0]
    if _IGNORE_16_BIT in values:
        draft.set("ignore_label", _IGNORE_16_BIT, "65535 occurs, the largest value of 16 bits")
        return [value for value in values if value != _IGNORE_16_BIT]
    if values and values[-1] > _IGNORE:
        draft.set("ignore_label", _IGNORE_16_BIT, "with more than 255 values, 255 may be a class")
        return values
    return [value for value in values if value != _IGNORE or set(values) <= {0, _IGNORE}]


def _set_two_classes(draft: Draft, values: list[int], table: ClassTable | None) -> None:
    """Set the keys for labels of 0 and 255, or 0 and 1."""
    top = _IGNORE if _IGNORE in values else 1
    found = f"the values are {' and '.join(map(str, values))}"
    names = table.names if table else ()
    if len(names) == 1:
        draft.set("classes", list(names), f"the only class of {table.path if table else ''}")
        draft.set("background", "common", f"{found}: 0 is all that is not {names[0]!r}, and needs words of its own")
        draft.set("label_map", {0: 1, top: 0}, "0 is the background, which is the last class")
        return
    if names and table:
        draft.set("classes", table.value, _describe(table))
    else:
        draft.set("classes", ["class_0", f"class_{top}"], f"{found}. No names were found: replace these two")
    if top == _IGNORE:
        draft.set("label_map", {0: 0, _IGNORE: 1}, f"{found}; without it, 255 would not be scored")


def _set_table(draft: Draft, values: list[int], table: ClassTable, *, has_ignored: bool) -> None:
    """Set the keys for indices of a class list."""
    names, top = table.names, max(values, default=0)
    first = 1 if table.first or top == len(names) else 0
    void = {
        first + index: name
        for index, name in enumerate(names)
        if is_void(name) or (is_background(name) and first + index == 0 not in values)
    }
    kept = [name for index, name in enumerate(names, first) if index not in void]
    missing = "" if any(value in values for value in void) else ", and does not occur"
    left_out = " and ".join(f"{value} is {name!r}" for value, name in void.items()) + missing
    reason = f"the names of {table.path} without {', '.join(void.values())}"
    if void and (first or set(void) != {0}):
        draft.set("classes", kept, reason)
        others = {0: _get_ignore_label(draft)} if first else {}
        indices = iter(range(len(kept)))
        raw = range(first, first + len(names))
        label_map = others | {value: _get_ignore_label(draft) if value in void else next(indices) for value in raw}
        draft.set("label_map", label_map, f"{left_out}, so it is not scored")
    elif void and len(names) > 1:
        draft.set("classes", kept, reason)
        draft.set("reduce_zero_label", True, f"{left_out}, so it is not scored")
        if 0 in values and has_ignored:
            draft.notes.append(
                f"0 and {_IGNORE} occur: check that 0 is {names[0]!r} in the files, and not {names[1]!r}."
            )
    elif first:
        draft.set("classes", table.value, _describe(table))
        reason = f"values to {top} for {len(names)} names" if top == len(names) else "the list numbers them so"
        draft.set("reduce_zero_label", True, f"classes are counted from 1 ({reason}), and 0 is unlabelled")
        if 0 in values and top < len(names):
            draft.notes.append(f"If 0 means {names[0]!r}, remove reduce_zero_label.")
    else:
        draft.set("classes", table.value, _describe(table))
        if top + 1 < len(names):
            draft.notes.append(
                f"Values to {top} occur, but {table.path} has {len(names)} names: check that 0 means {names[0]!r}."
            )
    if len(kept) > _IGNORE and "ignore_label" not in draft.keys:
        draft.set("ignore_label", _IGNORE_16_BIT, f"255 is one of the {len(kept)} classes")


def _set_greys(draft: Draft, facts: LabelFacts, table: ClassTable) -> None:
    """Set the keys for indices that a table of grey colours numbers."""
    draft.set("classes", table.value, _describe(table))
    if set(facts.values) <= set(table.greys):
        draft.set("label_colors", table.path, "its colours are the values in the files")
    else:
        others = dict.fromkeys({0} - set(table.greys), _IGNORE)
        draft.set("label_map", others | table.greys, f"the numbers of {table.path}. It has no name for 0")


def _get_ignore_label(draft: Draft) -> int:
    return int(draft.keys.get("ignore_label", _IGNORE))


def _set_cityscapes(draft: Draft, facts: LabelFacts, layout: str) -> bool:
    """Set the classes of Cityscapes if the names of files or the palette prove that these are its labels."""
    table = get_ready_table("@cityscapes")[:_CITYSCAPES_CLASSES]
    colors = [color for _, color in table]
    shown = {value: color for value, color in facts.palette.items() if color in colors}
    by_id = {value: colors[index] for index, value in enumerate(_CITYSCAPES_IDS)}
    used = {value for value in facts.values if 0 <= value <= _CITYSCAPES_LAST}
    is_ids = len(shown) > 2 and all(by_id.get(value) == color for value, color in shown.items())
    is_train = len(shown) > 2 and all(colors[value : value + 1] == [color] for value, color in shown.items())
    if layout == "cityscapes" and not shown:
        is_ids = max(used, default=0) >= _CITYSCAPES_CLASSES
        is_train = not is_ids
    if not is_ids and not is_train:
        return False
    proof = "the palette has its colours" if shown else "the folders are its cities"
    draft.set("classes", [name for name, _ in table], f"the classes of Cityscapes: {proof}")
    if is_ids:
        ids = {value: index for index, value in enumerate(_CITYSCAPES_IDS)}
        others = range(-1, _CITYSCAPES_LAST + 1)
        label_map = {value: ids.get(value, _IGNORE) for value in others}
        draft.keys.pop("ignore_label", None)
        draft.set("label_map", label_map, "the files hold Cityscapes' label ids")
    return True


def _set_unnamed(draft: Draft, values: list[int], layout: str) -> None:
    """Set the keys for indices without a class list."""
    top = max(values, default=0)
    if layout == "voc" and top <= 20:
        names = [name for name, _ in get_ready_table("@voc")[:21]]
        draft.set("classes", names, "the classes of Pascal VOC, whose file names these are")
    elif top > 2 * len(values) + 10:
        if len(values) > _MAX_LISTED:
            _set_missing_list(draft, top)
            return
        draft.set_placeholders(values)
        label_map = {value: index for index, value in enumerate(values)}
        draft.set("label_map", label_map, "the values have gaps. Add those that the other files have")
    elif top >= _MAX_LISTED:
        _set_missing_list(draft, top)
    elif values and values[0] == 1:
        draft.set_placeholders(range(1, top + 1))
        draft.set("reduce_zero_label", True, "0 does not occur: classes are counted from 1, and 0 is unlabelled")
        draft.notes.append("If 0 is a class that only the other files have, add its name and remove reduce_zero_label.")
    else:
        draft.set_placeholders(range(top + 1))


def _set_missing_list(draft: Draft, top: int) -> None:
    draft.set("classes", "classes.txt", f"write this file: {top + 1:,} lines, one name each")
    draft.notes.append(f"Values to {top:,} occur. If they number objects, these are no labels of classes.")


def _set_colors(draft: Draft, facts: LabelFacts, table: ClassTable | None, layout: str) -> None:
    """Set the keys for labels in colours."""
    if facts.has_clash:
        draft.notes.append(
            "One index has different colours in the palettes of different files, so the colours are read in its place."
        )
    found = {color for color, _ in facts.colors.most_common()}
    if table is not None and table.colors:
        unused = {name for name, color in table.colors.items() if color not in found}
        dropped = [name for name in table.colors if is_void(name) or (is_background(name) and name in unused)]
        names = [name for name in table.names if name not in dropped]
        without = f" without {', '.join(dropped)}, which is not scored" if dropped else ""
        draft.set("classes", names if dropped else table.path, f"the names of {table.path}{without}")
        draft.set("label_colors", table.path, f"the labels are colours, and the file names {len(table.colors)}")
        _note_unknown(draft, found - set(table.colors.values()), table.path)
        if background := [name for name in names if is_background(name)]:
            draft.notes.append(f"Remove {background[0]} from the classes if it is not to be scored.")
        return
    for name, size in (("@voc", 21), ("@cityscapes", _CITYSCAPES_CLASSES)):
        ready = get_ready_table(name)
        is_proven = layout == "voc" if name == "@voc" else layout == "cityscapes" or len(found) > 3
        if is_proven and found <= {color for _, color in ready}:
            draft.set("classes", [word for word, _ in ready[:size]], f"all colours found are those of {name}")
            draft.set("label_colors", name, "the colours of these classes")
            return
    if len(found) > _MAX_COLORS:
        draft.set("classes", "classes.txt", "write this file: one name per line")
        draft.set("label_colors", "colors.csv", "write this file: a table with the columns name,r,g,b")
        draft.notes.append(
            f"The labels have {len(found):,} colours, too many for classes: they may be antialiased or dithered, or "
            "number objects."
        )
        return
    ordered = sorted(found, key=lambda color: (-facts.colors[color], color))
    draft.set_placeholders(range(len(ordered)))
    draft.set(
        "label_colors",
        {color: f"class_{index}" for index, color in enumerate(ordered)},
        "the labels are colours. Replace the names as above, and write 255 for a colour that is no class",
    )


def _note_unknown(draft: Draft, unknown: set[Color], path: str) -> None:
    if unknown:
        listed = ", ".join(map(str, sorted(unknown)[:3]))
        draft.notes.append(f"{path} lacks {len(unknown)} colours that occur, such as {listed}: add them.")
