"""Colours of label files: which class each colour means."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cliptrase_d2.color_files import COLOR_FORMS, Color, ColorTable, find_color_table, parse_color
from cliptrase_d2.data.labels import pack_colors, unpack_color
from cliptrase_d2.ready_vocabularies import MARK
from cliptrase_d2.utils.errors import InputError, suggest
from cliptrase_d2.utils.user_files import read_text
from cliptrase_d2.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

_VOC = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
_VOC_BORDER = (224, 224, 192)
_CITYSCAPES = {
    "road": (128, 64, 128), "sidewalk": (244, 35, 232), "building": (70, 70, 70), "wall": (102, 102, 156),
    "fence": (190, 153, 153), "pole": (153, 153, 153), "traffic light": (250, 170, 30),
    "traffic sign": (220, 220, 0), "vegetation": (107, 142, 35), "terrain": (152, 251, 152), "sky": (70, 130, 180),
    "person": (220, 20, 60), "rider": (255, 0, 0), "car": (0, 0, 142), "truck": (0, 0, 70), "bus": (0, 60, 100),
    "train": (0, 80, 100), "motorcycle": (0, 0, 230), "bicycle": (119, 11, 32),
}  # fmt: skip
# Classes of Cityscapes that are not evaluated.
_CITYSCAPES_VOID = {
    "unlabeled": (0, 0, 0), "dynamic": (111, 74, 0), "ground": (81, 0, 81), "parking": (250, 170, 160),
    "rail track": (230, 150, 140), "guard rail": (180, 165, 180), "bridge": (150, 100, 100),
    "tunnel": (150, 120, 90), "caravan": (0, 0, 90), "trailer": (0, 0, 110),
}  # fmt: skip


def map_colors(
    colors: Mapping[Any, Any] | str | Path, vocabulary: Vocabulary, ignore_label: int, where: object
) -> dict[int, int]:
    """Return the label map of colours: packed colour -> class index or ignore label.

    Args:
        colors: {colour: class}, in which a colour is three numbers, "r,g,b" or hexadecimal digits, and a class is its
            name or index or the ignore label; or the path of a tool's table; or "@voc" or "@cityscapes". The colours
            of a table that belong to no class of the vocabulary have the ignore label.
        vocabulary: the classes. A synonym stands for its class.
        ignore_label: class index of pixels that are not scored.
        where: source of the colours, for error messages.
    Raises:
        InputError: a colour or a class is invalid, a colour has two classes, or a class has no colour in a table.
    """
    if isinstance(colors, Mapping):
        if not colors:
            raise InputError(where, "label_colors without an entry", "Remove it, or write '[r, g, b]: class'.")
        pairs = (
            (_to_color(color, where), _to_index(name, vocabulary, ignore_label, where))
            for color, name in colors.items()
        )
        return _join(pairs, where)
    table = [(_normalize(name), name, color) for name, color in _read_table(colors)]
    known, indices = {name for name, *_ in table}, _index_names(vocabulary)
    found = {index for name, index in indices.items() if name in known}
    if missing := [name for index, name in enumerate(vocabulary.classes) if index not in found]:
        names = [name for _, name, _ in table]
        got = f"no colour for {len(missing)} of {len(vocabulary.classes)} classes, such as {missing[0]!r}"
        fix = suggest(missing[0], names, "Spell the class as in the table, or add its name there as a synonym.")
        raise InputError(colors, got, fix, allowed=", ".join(names))
    if others := [name for normalized, name, _ in table if normalized not in indices]:
        logger.info("%s: not scored, since no class has these names: %s", where, ", ".join(others))
    return _join([(_pack(color), indices.get(name, ignore_label)) for name, _, color in table], where)


def _read_table(source: str | Path) -> ColorTable:
    if str(source).startswith(MARK):
        return get_ready_table(str(source))
    table = find_color_table(read_text(Path(source)), source)
    if table is None:
        raise InputError(source, "no table of colours", "Export it again, or write label_colors by hand.", COLOR_FORMS)
    return table


def get_ready_table(name: str) -> ColorTable:
    """Return the names and colours of "@voc" or "@cityscapes".

    Raises:
        InputError: another name.
    """
    if name == f"{MARK}voc":
        return [*((word, _voc_color(index)) for index, word in enumerate(_VOC)), ("border", _VOC_BORDER)]
    if name == f"{MARK}cityscapes":
        return [*_CITYSCAPES.items(), *_CITYSCAPES_VOID.items()]
    raise InputError("label_colors", f"unknown table {name!r}", "Choose one of these.", "@voc or @cityscapes")


def _voc_color(index: int) -> Color:
    """Return a colour of Pascal VOC's devkit. Bits 0, 1 and 2 of the index are the highest of red, green and blue."""
    red, green, blue = (
        sum((index >> (3 * place + channel) & 1) << (7 - place) for place in range(3)) for channel in range(3)
    )
    return red, green, blue


def _index_names(vocabulary: Vocabulary) -> dict[str, int]:
    """Return the class index of every name and synonym, normalized. The name of a class wins."""
    synonyms = {_normalize(word): index for index, words in enumerate(vocabulary.words) for word in words}
    return synonyms | {_normalize(name): index for index, name in enumerate(vocabulary.classes)}


def _normalize(name: str) -> str:
    """Return a name without case, spaces and hyphens, in which the tables of tools differ."""
    return re.sub(r"[\s_-]", "", name).casefold()


def _to_color(key: object, where: object) -> int:
    color = parse_color(key)
    if color is None:
        allowed = "[r, g, b] or 'r,g,b' of numbers from 0 to 255, or '#rrggbb'"
        raise InputError(where, f"label_colors entry {key!r}", "Write a colour before the colon.", allowed)
    return _pack(color)


def _to_index(name: object, vocabulary: Vocabulary, ignore_label: int, where: object) -> int:
    indices = _index_names(vocabulary)
    if isinstance(name, str) and _normalize(name) in indices:
        return indices[_normalize(name)]
    if type(name) is int and (0 <= name < len(vocabulary.classes) or name == ignore_label):
        return name
    fix = suggest(name, vocabulary.classes, "Write a class name, its index, or the ignore label.")
    raise InputError(where, f"label_colors with the class {name!r}", fix, allowed=", ".join(vocabulary.classes))


def _pack(color: Color) -> int:
    return int(pack_colors(np.array(color, dtype=np.uint8)))


def _join(pairs: Iterable[tuple[int, int]], where: object) -> dict[int, int]:
    mapped: dict[int, int] = {}
    for color, index in pairs:
        if mapped.setdefault(color, index) != index:
            got = f"label_colors with the colour {unpack_color(color)} for two classes"
            raise InputError(where, got, "Give each class a colour of its own.")
    return mapped
