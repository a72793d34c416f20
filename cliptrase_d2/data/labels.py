"""The rule that turns the raw values of a label file into class indices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cliptrase_d2.utils.errors import InputError

_SHOWN = 5  # values named in one message


@dataclass(frozen=True)
class LabelRule:
    """What a raw label value means.

    Attributes:
        num_classes: C, with the background class if there is one.
        ignore_label: class index of pixels that are not scored, and the raw value that always means so,
            unless ``label_map`` says otherwise.
        label_map: raw value -> class index or ignore label; None where files hold class indices.
        unscored_if_only: raw value; an image is not scored where no other is left of its labels after cropping.
    """

    num_classes: int
    ignore_label: int = 255
    label_map: Mapping[int, int] | None = None
    unscored_if_only: int | None = None

    def check(self, where: object) -> None:
        """Refuse a rule that contradicts itself.

        Args:
            where: file or data set that the rule comes from, for the message.
        Raises:
            InputError: numbers that are none, an ignore label that is also a class, or a mapped value
                that is neither a class nor the ignore label.
        """
        if not _is_int(self.ignore_label):
            raise InputError(
                where,
                f"ignore_label {self.ignore_label!r}",
                "Give the value of unscored pixels.",
                allowed="a whole number",
            )
        if 0 <= self.ignore_label < self.num_classes:
            raise InputError(
                where,
                f"ignore_label {self.ignore_label}, which is also the index of one of the {self.num_classes} classes",
                "Set another ignore_label, 65535 for example, and use label_map if the files hold the old one.",
                allowed=f"a value outside 0..{self.num_classes - 1}",
            )
        if self.label_map is None:
            return
        if not isinstance(self.label_map, Mapping) or not self.label_map:
            raise InputError(
                where,
                f"label_map {self.label_map!r}",
                "Leave it out or fill it.",
                allowed="raw value: class index, at least one",
            )
        for raw, index in self.label_map.items():
            if not (_is_int(raw) and _is_int(index) and (0 <= index < self.num_classes or index == self.ignore_label)):
                raise InputError(
                    where,
                    f"label_map entry {raw!r}: {index!r}",
                    "Correct the entry, or the class list.",
                    allowed=f"whole numbers (no quotes); {self._allowed_indices()} after the colon",
                )

    def apply(self, raw: np.ndarray, where: object) -> np.ndarray:
        """Turn raw values into class indices.

        Args:
            raw: [H,W] integers of a label file.
            where: the label file, for the message.
        Returns:
            [H,W] int64, each 0..C-1 or the ignore label.
        Raises:
            InputError: a value that the rule does not know.
        """
        if self.label_map is None:
            known = ((raw >= 0) & (raw < self.num_classes)) | (raw == self.ignore_label)
            if not known.all():
                raise InputError(
                    where,
                    f"the label values {_some(raw[~known])}",
                    "Say in label_map which class each raw value is (labels that start at 1 need "
                    f"{{0: {self.ignore_label}, 1: 0, 2: 1, ...}}), or correct the class list.",
                    allowed=self._allowed_indices(),
                )
            return raw.astype(np.int64)
        table = {self.ignore_label: self.ignore_label, **self.label_map}
        keys = np.array(sorted(table), dtype=np.int64)
        position = np.searchsorted(keys, raw).clip(max=len(keys) - 1)  # [H,W]
        unknown = keys[position] != raw
        if unknown.any():
            raise InputError(
                where,
                f"the label values {_some(raw[unknown])}, which label_map does not name",
                "Add them to label_map, with the ignore label if they are not to be scored.",
                allowed=f"the keys of label_map ({_some(np.array(list(self.label_map)), 40)}) and "
                f"the ignore label {self.ignore_label}",
            )
        return np.array([table[int(key)] for key in keys], dtype=np.int64)[position]

    def _allowed_indices(self) -> str:
        return f"0..{self.num_classes - 1} or the ignore label {self.ignore_label}"


def _is_int(value: object) -> bool:
    """Whether it is a whole number, of those that a label file can hold."""
    return isinstance(value, int) and not isinstance(value, bool) and -(2**31) <= value < 2**31


def _some(values: np.ndarray, shown: int = _SHOWN) -> str:
    distinct = np.unique(values)
    return ", ".join(str(value) for value in distinct[:shown]) + (", ..." if len(distinct) > shown else "")
