"""Comparison of the palettes of label files, in which one index should have one colour."""

from __future__ import annotations

from collections.abc import Iterable

from cliptrase_d2.data.images import open_image
from cliptrase_d2.data.label_files import LABEL_FORMATS
from cliptrase_d2.data.labels import INDEX, LabelRule
from cliptrase_d2.utils.errors import InputError


def find_palette_conflict(files: Iterable[str], rule: LabelRule) -> str:
    """Describe a value of a class that has different colours in two label files; "" for none.

    A tool that reduces pictures to palettes one by one numbers the colours of each file anew. The values then have no
    common meaning. Only the headers are read, and none after a first file without a palette.

    Args:
        files: label files.
        rule: of the data set.
    """
    if rule.coding != INDEX:
        return ""
    values = range(rule.num_classes) if rule.label_map is None else [raw for raw in rule.label_map if 0 <= raw < 256]
    values = [raw for raw in values if rule.means_class(raw)]
    first: dict[int, tuple[tuple[int, ...], str]] = {}
    for file in files:
        try:
            with open_image(file, LABEL_FORMATS) as image:
                palette = image.getpalette() if image.mode == "P" else None
        except InputError:  # an unreadable file is reported where it is read
            continue
        if palette is None:
            if not first:
                return ""
            continue
        for raw in values:
            color = tuple(palette[3 * raw : 3 * raw + 3])
            if color and first.setdefault(raw, (color, file))[0] != color:
                other, where = first[raw]
                fact = f"the label value {raw} has the colour {other} in {where}, but {color} in {file}"
                fix = "Set label_colors if the colours mean the classes, or export the labels with one palette."
                return f"{fact}. If each file numbers its colours anew, the scores are wrong. {fix}"
    return ""
