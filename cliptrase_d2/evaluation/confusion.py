"""Counts how often each class is taken for each."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

from cliptrase_d2.utils.errors import InputError


def confusion_matrix(
    truth: Tensor | np.ndarray,
    prediction: Tensor | np.ndarray,
    num_classes: int,
    ignore_label: int,
    where: object = "labels",
) -> Tensor:
    """Count the pixels of every pair of true and predicted class.

    Args:
        truth: [H,W] integers, 0..C-1 or the ignore label.
        prediction: [H,W] integers, 0..C-1 wherever the truth is not ignored.
        num_classes: C.
        ignore_label: true label of pixels that do not count.
        where: file, for the message.
    Returns:
        [C,C] int64 where the prediction is, rows truth, columns prediction.
    Raises:
        InputError: different sizes, or a label outside the classes.
    """
    prediction = torch.as_tensor(prediction).long()
    truth = torch.as_tensor(truth).to(prediction.device).long()
    if truth.shape != prediction.shape:
        raise InputError(
            where,
            f"a prediction of {_size(prediction)} for labels of {_size(truth)}",
            "Resize one.",
            allowed="equal sizes",
        )
    counted = truth != ignore_label
    for labels, what in ((truth, "label"), (prediction, "predicted class")):
        outside = counted & ((labels < 0) | (labels >= num_classes))
        if outside.any():
            raise InputError(
                where,
                f"the {what} {int(labels[outside][0])}",
                "Check that class list, label_map and vocabulary agree.",
                allowed=f"0..{num_classes - 1} or the ignore label {ignore_label}",
            )
    pairs = torch.where(counted, truth * num_classes + prediction, num_classes**2)  # the last one is not counted
    counts = torch.bincount(pairs.flatten(), minlength=num_classes**2 + 1)
    return counts[:-1].view(num_classes, num_classes)


def confusion_of_images(
    truths: Sequence[Tensor],
    predictions: Sequence[Tensor],
    num_classes: int,
    ignore_label: int,
    where: Sequence[object],
) -> Tensor:
    """The sum of the matrices of images, one at least, of any sizes; ``where`` has the file of each.

    They are counted in one go, and again one by one only where that does not work, to say with which it does not.
    """
    if all(truth.shape == prediction.shape for truth, prediction in zip(truths, predictions, strict=True)):
        truth, prediction = (torch.cat([labels.flatten() for labels in of]) for of in (truths, predictions))
        with suppress(InputError):
            return confusion_matrix(truth, prediction, num_classes, ignore_label)
    each = [
        confusion_matrix(truth, prediction, num_classes, ignore_label, file)
        for truth, prediction, file in zip(truths, predictions, where, strict=True)
    ]
    return torch.stack(each).sum(0)


def _size(labels: Tensor) -> str:
    return "x".join(str(side) for side in reversed(labels.shape))
