"""Confusion matrix of a data set: the number of pixels of every pair of true and predicted class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import reduce
from operator import itemgetter
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cliptrase_d2.data.rendering import RawRange, join_ranges
from cliptrase_d2.unknown import UNKNOWN
from cliptrase_d2.utils.errors import InputError

_WORST_IMAGES = 20  # limits memory and the size of progress files


@dataclass
class Counts:
    """Everything that a report is computed from. The counts of disjoint sets of images can be added.

    Attributes:
        confusion: [C,C] int64 pixels, rows truth, columns prediction; [C,C+1] if pixels are predicted as unknown, which
            is the last column.
        images: number of predicted images.
        without_valid_label: files without a scored pixel.
        skipped: ``file`` and ``reason`` of each image that could not be read.
        worst: ``file`` and ``pAcc``, in percent, of the images with the fewest correct pixels; see ``select_worst``.
        ignored: number of labelled pixels that are not scored.
        raw_range: of the values of 16-bit images without a stretch; None if there are none.
        objects: [C,3,4] int64 by class and size of object, see ``count_objects``; None if none were counted.
    """

    confusion: Tensor
    images: int = 0
    without_valid_label: list[str] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    worst: list[dict[str, Any]] = field(default_factory=list)
    ignored: int = 0
    raw_range: RawRange | None = None
    objects: Tensor | None = None

    @classmethod
    def empty(cls, num_classes: int) -> Counts:
        """Return the counts of no image."""
        return cls(torch.zeros(num_classes, num_classes, dtype=torch.int64))

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            add_confusions(self.confusion, other.confusion),
            self.images + other.images,
            self.without_valid_label + other.without_valid_label,
            self.skipped + other.skipped,
            select_worst([*self.worst, *other.worst]),
            self.ignored + other.ignored,
            join_ranges([self.raw_range, other.raw_range]),
            add_objects(self.objects, other.objects),
        )


def add_confusions(first: Tensor, second: Tensor) -> Tensor:
    """Add matrices [C,C] or [C,C+1], of which one may have no column for unknown."""
    columns = max(first.shape[1], second.shape[1])
    padded, other = (F.pad(counts, (0, columns - counts.shape[1])) for counts in (first, second))
    return padded + other


def add_objects(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """Add counts of objects [C,3,4], of which some may be None."""
    if first is None or second is None:
        return second if first is None else first
    return first + second


def select_worst(images: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the 20 images with the lowest ``pAcc``, the worst first. Equal ones are sorted by ``file``."""
    return sorted(images, key=itemgetter("pAcc", "file"))[:_WORST_IMAGES]


def count_correct(truth: Tensor, prediction: Tensor, ignore_label: int) -> Tensor:
    """Return the numbers of scored and of correct pixels of an image, [2] int64.

    Args:
        truth, prediction, ignore_label: as in ``confusion_matrix``.
    """
    scored = truth != ignore_label
    return torch.stack([scored.sum(), ((truth == prediction) & scored).sum()])


def confusion_matrix(
    truth: Tensor | np.ndarray,
    prediction: Tensor | np.ndarray,
    num_classes: int,
    ignore_label: int,
    where: object = "labels",
) -> Tensor:
    """Count the pixels of every pair of true and predicted class.

    Args:
        truth: [H,W] integers, 0 to C-1 or the ignore label.
        prediction: [H,W] integers, 0 to C-1, or -1 for unknown, wherever the truth is not ignored.
        num_classes: C.
        ignore_label: true label of pixels that are not scored.
        where: file that an error names.
    Returns:
        [C,C] int64 on the device of the prediction; rows truth, columns prediction. [C,C+1] if scored pixels are
        unknown, which is the last column.
    Raises:
        InputError: the sizes differ, or a label is outside 0 to C-1.
    """
    prediction = torch.as_tensor(prediction).long()
    truth = torch.as_tensor(truth).to(prediction.device).long()
    if truth.shape != prediction.shape:
        got = f"a prediction of {_format_size(prediction)} for labels of {_format_size(truth)}"
        raise InputError(where, got, "Resize one of them.")
    scored = truth != ignore_label
    unknown = scored & (prediction == UNKNOWN)
    columns = num_classes + int(unknown.any())
    prediction = torch.where(unknown, num_classes, prediction)
    for labels, kind, count in ((truth, "label", num_classes), (prediction, "predicted class", columns)):
        outside = scored & ((labels < 0) | (labels >= count))
        if outside.any():
            allowed = f"0 to {num_classes - 1}, or the ignore label {ignore_label}"
            fix = "Check that the class list, label_map and vocabulary agree."
            raise InputError(where, f"the {kind} {int(labels[outside][0])}", fix, allowed)
    bins = num_classes * columns
    pairs = torch.where(scored, truth * columns + prediction, bins)  # the last bin is dropped
    counts = torch.bincount(pairs.flatten(), minlength=bins + 1)
    return counts[:-1].view(num_classes, columns)


def batch_confusion_matrix(
    truths: Sequence[Tensor],
    predictions: Sequence[Tensor],
    num_classes: int,
    ignore_label: int,
    files: Sequence[object],
) -> Tensor:
    """Return the sum of the confusion matrices of one or more images, whose sizes may differ.

    Args:
        truths, predictions: [H,W] for each image.
        num_classes, ignore_label: as in ``confusion_matrix``.
        files: name of each image, for errors.
    Returns:
        [C,C] or [C,C+1] int64.
    Raises:
        InputError: as in ``confusion_matrix``.
    """
    # One count of all pixels is faster. Only an error needs the images one by one, to name the file.
    if all(truth.shape == prediction.shape for truth, prediction in zip(truths, predictions, strict=True)):
        truth, prediction = (torch.cat([labels.flatten() for labels in maps]) for maps in (truths, predictions))
        with suppress(InputError):
            return confusion_matrix(truth, prediction, num_classes, ignore_label)
    matrices = [
        confusion_matrix(truth, prediction, num_classes, ignore_label, file)
        for truth, prediction, file in zip(truths, predictions, files, strict=True)
    ]
    return reduce(add_confusions, matrices)


def _format_size(labels: Tensor) -> str:
    return "x".join(str(side) for side in reversed(labels.shape))
