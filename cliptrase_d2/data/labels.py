"""Meaning of label files: raw values to class indices, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cliptrase_d2.utils.errors import InputError, check_choice

# How pixels hold a raw value: one channel; a colour, packed by `pack_colors`; ADE20K's full annotations; and COCO's
# panoptic PNG files with their JSON.
INDEX, COLORS, ADE20K_FULL, PANOPTIC = CODINGS = ("index", "colors", "ade20k_full", "panoptic")
# Raw value of a pixel without any label, such as a panoptic void. No label file holds it, since it has over 32 bits.
NO_LABEL = -(2**40)


@dataclass(frozen=True)
class LabelRule:
    """The meaning of raw label values.

    Attributes:
        num_classes: C, including a background class.
        ignore_label: class index of pixels that are not scored. In files of coding "index", the same raw value means
            the same unless ``label_map`` maps it to a class.
        label_map: raw value -> class index or ignore label; None if the files hold class indices.
        unscored_if_only: raw value; an image whose cropped labels have only this value is not scored.
        coding: how the pixels hold raw values, one of ``CODINGS``.
    """

    num_classes: int
    ignore_label: int = 255
    label_map: Mapping[int, int] | None = None
    unscored_if_only: int | None = None
    coding: str = INDEX

    def check(self, where: object) -> None:
        """Raise if the rule is invalid.

        Args:
            where: source of the rule, for error messages.
        Raises:
            InputError: a value is not an integer, the ignore label is a class index, a value is mapped to neither a
                class nor the ignore label, or the coding is unknown.
        """
        check_choice(f"{where}: label_coding", self.coding, CODINGS)
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
                fix = "Correct the entry or the class list. Colours belong in label_colors."
                raise InputError(where, f"label_map entry {raw!r}: {index!r}", fix, allowed=allowed)

    def apply(self, raw: np.ndarray, where: object) -> np.ndarray:
        """Convert raw values to class indices.

        Args:
            raw: [H,W] integers of a label file; ``NO_LABEL`` becomes the ignore label.
            where: the label file, for error messages.
        Returns:
            [H,W] int64, 0 to C-1 or the ignore label.
        Raises:
            InputError: a value has no meaning.
        """
        if self.label_map is None:
            unlabelled = (raw == NO_LABEL) | ((raw == self.ignore_label) & (self.coding == INDEX))
            unknown = ((raw < 0) | (raw >= self.num_classes)) & ~unlabelled
            if unknown.any():
                fix = "Add a label_map, or correct the class list."
                if raw.max() == self.num_classes or self.coding != INDEX:
                    fix = "If classes are counted from 1, set reduce_zero_label: true; else add a label_map."
                got = f"unknown label values {self._list(raw[unknown])}"
                raise InputError(where, got, fix, allowed=self._index_range())
            return np.where(unlabelled, self.ignore_label, raw).astype(np.int64)
        table = self._table()
        keys = np.array(sorted(table), dtype=np.int64)
        position = np.searchsorted(keys, raw).clip(max=len(keys) - 1)  # [H,W]
        unknown = keys[position] != raw
        if unknown.any():
            kind, key = ("colours", "label_colors") if self.coding == COLORS else ("label values", "label_map")
            got = f"unknown {kind} {self._list(raw[unknown])}, in {unknown.mean():.1%} of its pixels"
            fix = f"Add them to {key}, with the ignore label if they are not to be scored."
            raise InputError(where, got, fix, allowed=self._list(keys[keys != NO_LABEL], limit=40))
        return np.array([table[int(key)] for key in keys], dtype=np.int64)[position]  # [H,W]

    def means_class(self, raw: int) -> bool:
        """Return whether the rule itself assigns a raw value to a class."""
        return 0 <= (raw if self.label_map is None else self.label_map.get(raw, -1)) < self.num_classes

    def invert(self, where: object) -> list[int]:
        """Return the raw value of each class, and that of unscored pixels as the last, [C+1].

        Args:
            where: source of the rule, for error messages.
        Raises:
            InputError: a class has no raw value or several, or unscored pixels have none.
        """
        if self.label_map is None:
            return [*range(self.num_classes), self.ignore_label]
        by_index: dict[int, list[int]] = {}
        for raw, index in self._table().items():
            if raw != NO_LABEL:
                by_index.setdefault(index, []).append(raw)
        for index in range(self.num_classes):
            if len(values := by_index.get(index, [])) != 1:
                got = (
                    f"class {index} has {f'the label values {self._list(np.array(values))}' if values else 'no value'}"
                )
                raise InputError(where, got, "Set TEST.PREDICTION_VALUES classes, or give each class one value.")
        unscored = by_index.get(self.ignore_label, [0])  # no value: void, which is 0 in ADE20K, COCO and colour files
        return [*(by_index[index][0] for index in range(self.num_classes)), unscored[0]]

    def _table(self) -> dict[int, int]:
        """Return the class index or ignore label of every known raw value."""
        implied = {self.ignore_label: self.ignore_label} if self.coding == INDEX else {}
        return {NO_LABEL: self.ignore_label, **implied, **(self.label_map or {})}

    def _index_range(self) -> str:
        return f"0..{self.num_classes - 1} or the ignore label {self.ignore_label}"

    def _list(self, values: np.ndarray, limit: int = 5) -> str:
        distinct = np.unique(values)
        convert = unpack_color if self.coding == COLORS else int
        return ", ".join(str(convert(value)) for value in distinct[:limit]) + (", ..." if len(distinct) > limit else "")


def pack_colors(pixels: np.ndarray) -> np.ndarray:
    """Return colours as one integer each, R·65536 + G·256 + B.

    Args:
        pixels: [...,3] uint8 RGB.
    Returns:
        [...] int32.
    """
    red, green, blue = (pixels[..., channel].astype(np.int32) for channel in range(3))
    return (red << 16) | (green << 8) | blue


def unpack_color(value: int) -> tuple[int, int, int]:
    """Return the (red, green, blue) of an integer of ``pack_colors``."""
    return int(value) >> 16, int(value) >> 8 & 255, int(value) & 255


def reduce_zero_label(num_classes: int, ignore_label: int) -> dict[int, int]:
    """Return the label map of files in which 0 is unlabelled and class index i is i + 1, as mmsegmentation names it."""
    return {0: ignore_label, **{index + 1: index for index in range(num_classes)}}


def _is_label(value: object) -> bool:
    """Return whether a value is an integer that a label file can hold."""
    return isinstance(value, int) and not isinstance(value, bool) and -(2**31) <= value < 2**31
