"""Decoding of label files: raw values to class indices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cliptrase_d2.utils.errors import InputError


@dataclass(frozen=True)
class LabelRule:
    """The meaning of raw label values.

    Attributes:
        num_classes: C, including a background class.
        ignore_label: class index of pixels that are not scored. The same raw value means the same unless ``label_map``
            maps it to a class.
        label_map: raw value -> class index or ignore label; None if the files hold class indices.
        unscored_if_only: raw value; an image whose cropped labels have only this value is not scored.
    """

    num_classes: int
    ignore_label: int = 255
    label_map: Mapping[int, int] | None = None
    unscored_if_only: int | None = None

    def check(self, where: object) -> None:
        """Raise if the rule is invalid.

        Args:
            where: source of the rule, for error messages.
        Raises:
            InputError: a value is not an integer, the ignore label is a class index, or a value is mapped to neither
                a class nor the ignore label.
        """
        if not _is_label(self.ignore_label):
            raise InputError(where, f"ignore_label {self.ignore_label!r}", "Use a whole number of at most 32 bits.")
        if 0 <= self.ignore_label < self.num_classes:
            got = f"ignore_label {self.ignore_label} is the index of one of the {self.num_classes} classes"
            fix = "Choose another, 65535 for example. If the files contain the old value, add it to label_map."
            raise InputError(where, got, fix, allowed=f"a value outside 0..{self.num_classes - 1}")
        if self.label_map is None:
            return
        if not isinstance(self.label_map, Mapping) or not self.label_map:
            raise InputError(where, f"label_map {self.label_map!r}", "Remove it, or write 'raw value: class index'.")
        for raw, index in self.label_map.items():
            is_class = _is_label(index) and (0 <= index < self.num_classes or index == self.ignore_label)
            if not (_is_label(raw) and is_class):
                allowed = f"whole numbers without quotes; after the colon {self._index_range()}"
                fix = "Correct the entry or the class list."
                raise InputError(where, f"label_map entry {raw!r}: {index!r}", fix, allowed=allowed)

    def apply(self, raw: np.ndarray, where: object) -> np.ndarray:
        """Convert raw values to class indices.

        Args:
            raw: [H,W] integers of a label file.
            where: the label file, for error messages.
        Returns:
            [H,W] int64, 0 to C-1 or the ignore label.
        Raises:
            InputError: a value has no meaning.
        """
        if self.label_map is None:
            unknown = ((raw < 0) | (raw >= self.num_classes)) & (raw != self.ignore_label)
            if unknown.any():
                shifted = f"{{0: {self.ignore_label}, 1: 0, 2: 1, ...}}"
                fix = f"Add a label_map ({shifted} if classes are counted from 1), or correct the class list."
                raise InputError(where, f"unknown label values {_list(raw[unknown])}", fix, allowed=self._index_range())
            return raw.astype(np.int64)
        table = {self.ignore_label: self.ignore_label, **self.label_map}
        keys = np.array(sorted(table), dtype=np.int64)
        position = np.searchsorted(keys, raw).clip(max=len(keys) - 1)  # [H,W]
        unknown = keys[position] != raw
        if unknown.any():
            fix = "Add them to label_map, with the ignore label if they are not to be scored."
            raise InputError(where, f"unknown label values {_list(raw[unknown])}", fix, allowed=_list(keys, limit=40))
        return np.array([table[int(key)] for key in keys], dtype=np.int64)[position]  # [H,W]

    def _index_range(self) -> str:
        return f"0..{self.num_classes - 1} or the ignore label {self.ignore_label}"


def _is_label(value: object) -> bool:
    """Return whether a value is an integer that a label file can hold."""
    return isinstance(value, int) and not isinstance(value, bool) and -(2**31) <= value < 2**31


def _list(values: np.ndarray, limit: int = 5) -> str:
    distinct = np.unique(values)
    return ", ".join(map(str, distinct[:limit])) + (", ..." if len(distinct) > limit else "")
