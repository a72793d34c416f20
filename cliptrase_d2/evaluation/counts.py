"""What has been counted of a data set."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Counts:
    """Everything that a report is made of; adding two of them is all that putting shares together takes.

    Attributes:
        confusion: [C,C] int64 pixels, rows truth, columns prediction.
        images: that were predicted.
        without_valid_label: files of which no pixel is scored.
        skipped: ``file`` and ``reason`` of those that could not be read.
    """

    confusion: Tensor
    images: int = 0
    without_valid_label: list[str] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)

    @classmethod
    def nothing(cls, num_classes: int) -> Counts:
        """No image yet."""
        return cls(torch.zeros(num_classes, num_classes, dtype=torch.int64))

    def copy(self) -> Counts:
        """What was counted up to now, which further counting leaves alone."""
        return Counts(self.confusion.clone(), self.images, [*self.without_valid_label], [*self.skipped])

    def add(self, other: Counts) -> None:
        """Take in a share of other images."""
        self.confusion += other.confusion
        self.images += other.images
        self.without_valid_label += other.without_valid_label
        self.skipped += other.skipped


def total(shares: Iterable[Counts], num_classes: int) -> Counts:
    """The sum of shares of different images."""
    counts = Counts.nothing(num_classes)
    for share in shares:
        counts.add(share)
    return counts
