"""Values of stored label maps: class indices, or those of the data set's own label files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cliptrase_d2.data.labels import COLORS, LabelRule, unpack_color
from cliptrase_d2.unknown import UNKNOWN
from cliptrase_d2.utils.errors import InputError, check_choice

CLASSES, FILES = PREDICTION_VALUES = ("classes", "files")
_KEY = "TEST.PREDICTION_VALUES"


@dataclass(frozen=True)
class PredictionEncoding:
    """How class indices are written.

    Attributes:
        table: [C+1], or [C+1,3] for colours: the value of each class, and that of unknown pixels as the last.
    """

    table: np.ndarray

    @classmethod
    def build(cls, rule: LabelRule, values: str, where: object) -> PredictionEncoding:
        """Build the encoding of a data set.

        Args:
            rule: of its label files.
            values: "classes" for class indices, "files" for the values that the label files have.
            where: the data set, for error messages.
        Raises:
            InputError: neither of the two, or the values of the label files cannot be written: a class has none or
                several, or they need more than 16 bits.
        """
        check_choice(_KEY, values, PREDICTION_VALUES)
        if values == CLASSES:
            depth = np.uint8 if rule.num_classes <= 255 else np.uint16
            return cls(np.array([*range(rule.num_classes), np.iinfo(depth).max], dtype=depth))
        raw = rule.invert(where)
        if rule.coding == COLORS:
            return cls(np.array([unpack_color(value) for value in raw], dtype=np.uint8))
        raw[-1] = raw[-1] if 0 <= raw[-1] < 65536 else 65535  # such as an ignore label of -1
        if not 0 <= min(raw) <= max(raw) < 65536:
            got = f"label values from {min(raw)} to {max(raw)}"
            raise InputError(where, got, f"Set {_KEY} {CLASSES}.", allowed="values of 8 or 16 bits")
        return cls(np.array(raw, dtype=np.uint8 if max(raw) < 256 else np.uint16))

    def encode(self, label_map: np.ndarray) -> np.ndarray:
        """Return the values [H,W], or colours [H,W,3], of class indices [H,W], in which -1 means unknown."""
        return self.table[np.where(label_map == UNKNOWN, len(self.table) - 1, label_map)]
