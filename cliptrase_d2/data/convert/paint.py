"""Drawing of layers onto one label map, and counting of pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from cliptrase_d2.data.convert.source import IGNORED, UNLABELLED, Layer, Notes


@dataclass
class Findings:
    """Counts over one or more pictures.

    Attributes:
        pixels: [C] of each class.
        unlabelled: pixels that no shape covers.
        ignored: pixels of regions that are never scored.
        overlapped: pixels that shapes of more than one class cover.
        pairs: pixels by the lower and the upper class.
        notes: on shapes.
    """

    pixels: np.ndarray
    unlabelled: int = 0
    ignored: int = 0
    overlapped: int = 0
    pairs: Counter[tuple[int, int]] = field(default_factory=Counter)
    notes: Notes = field(default_factory=Notes)

    @property
    def total(self) -> int:
        """Number of all pixels."""
        return int(self.pixels.sum()) + self.unlabelled + self.ignored

    def update(self, other: Findings) -> None:
        """Add the counts of other pictures."""
        self.pixels += other.pixels
        self.unlabelled += other.unlabelled
        self.ignored += other.ignored
        self.overlapped += other.overlapped
        self.pairs.update(other.pairs)
        self.notes.update(other.notes)


def paint(layers: Iterable[Layer], size: tuple[int, int], classes: int, notes: Notes) -> tuple[np.ndarray, Findings]:
    """Draw layers over each other.

    Args:
        layers: the lowest first.
        size: height and width.
        classes: number of classes, C.
        notes: of the layers; they become a part of the findings.
    Returns:
        [H,W] int32, class indices, UNLABELLED or IGNORED; and the counts.
    """
    labels = np.full(size, UNLABELLED, dtype=np.int32)
    overlapped = np.zeros(size, dtype=bool)
    pairs: Counter[tuple[int, int]] = Counter()
    for index, mask, top, left in layers:
        window = np.s_[top : top + mask.shape[0], left : left + mask.shape[1]]
        below = labels[window][mask]
        if index >= 0:
            is_other = (below >= 0) & (below != index)
            overlapped[window][mask] |= is_other
            found, counts = np.unique(below[is_other], return_counts=True)
            pairs.update({(int(other), index): int(count) for other, count in zip(found, counts, strict=True)})
        labels[window][mask] = index
    return labels, Findings(
        np.bincount(labels[labels >= 0], minlength=classes),
        int((labels == UNLABELLED).sum()),
        int((labels == IGNORED).sum()),
        int(overlapped.sum()),
        pairs,
        notes,
    )
