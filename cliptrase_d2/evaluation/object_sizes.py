"""Metrics by size of object: how well small, medium and large objects of a data set are segmented.

An object is a connected region of one class in the true labels, corners included. Sizes follow COCO, whose bounds of
32² and 96² pixels are taken as shares of a photograph of 640x480, so that they mean the same at every resolution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

SIZES = ("small", "medium", "large")
SIZE_METRICS = ("mIoU", "mAcc")
NO_SIZE = 255  # of pixels that are not scored
BOUNDS = (32**2, 96**2)  # fewest pixels of a medium and of a large object in an image of 640x480
_COCO_PIXELS = 640 * 480
_CONNECTIVITY = 8  # a line that is one pixel wide and diagonal is one object


class LabelObjects(NamedTuple):
    """The objects of a true label map.

    Attributes:
        sizes: [H,W] uint8, the size of each pixel's object, an index into ``SIZES``; ``NO_SIZE`` where not scored.
        objects: [n,2] int64, class and size of each object.
    """

    sizes: Tensor
    objects: Tensor


class ClassRegions(NamedTuple):
    """The connected regions of one class.

    Attributes:
        class_index: of the class.
        box: (rows, columns) of the image that hold all regions.
        numbers: [h,w] int32, the region 1 to n of every pixel of the box; 0 outside of the class.
        areas: [n] pixels of each region.
    """

    class_index: int
    box: tuple[slice, slice]
    numbers: np.ndarray
    areas: np.ndarray


class ObjectMapper:
    """Adds ``label_objects``, a ``LabelObjects``, to the labelled inputs of a mapper, in the processes that read files.

    Args:
        mapper: record -> input, with ``sem_seg`` [H,W] if there are labels.
        ignore_label: of pixels that are not scored.
    """

    def __init__(self, mapper: Callable[[Mapping[str, Any]], dict[str, Any]], ignore_label: int):
        self.mapper, self.ignore_label = mapper, ignore_label

    def __call__(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Read one record."""
        mapped = self.mapper(record)
        if "sem_seg" in mapped:
            mapped["label_objects"] = find_objects(mapped["sem_seg"], self.ignore_label)
        return mapped


def find_objects(truth: Tensor, ignore_label: int, bounds: Sequence[int] = BOUNDS) -> LabelObjects:
    """Find the objects of a label map.

    Args:
        truth: [H,W] integers, 0 to C-1 or the ignore label.
        ignore_label: of pixels that are not scored. They separate objects and belong to none.
        bounds: as in ``measure_sizes``.
    """
    labels = truth.cpu().numpy()
    sizes = np.full(labels.shape, NO_SIZE, np.uint8)
    objects = [np.zeros((0, 2), np.int64)]
    for own in find_regions(labels, ignore_label):
        own_sizes = measure_sizes(own.areas, labels.size, bounds)
        np.copyto(sizes[own.box], own_sizes[own.numbers - 1], where=own.numbers > 0)
        objects.append(np.stack([np.full(len(own_sizes), own.class_index), own_sizes], axis=1))
    return LabelObjects(torch.from_numpy(sizes), torch.from_numpy(np.concatenate(objects)))


def find_regions(labels: np.ndarray, ignore_label: int) -> Iterator[ClassRegions]:
    """Yield the connected regions of every class that occurs in a label map, corners included.

    Args:
        labels, ignore_label: as in ``find_objects``.
    """
    for index in np.flatnonzero(np.bincount(labels[labels != ignore_label])):
        mask = (labels == index).view(np.uint8)
        x, y, width, height = cv2.boundingRect(mask)  # much faster than regions of the whole image
        box = (slice(y, y + height), slice(x, x + width))
        _, numbers, statistics, _ = cv2.connectedComponentsWithStats(mask[box], connectivity=_CONNECTIVITY)
        yield ClassRegions(int(index), box, numbers, statistics[1:, cv2.CC_STAT_AREA])


def measure_sizes(areas: np.ndarray, image_pixels: int, bounds: Sequence[int] = BOUNDS) -> np.ndarray:
    """Return the index into ``SIZES`` of objects of these pixels, [n] to [n] uint8.

    Args:
        areas: pixels of each object.
        image_pixels: of the whole image.
        bounds: fewest pixels of every size but the first in an image of 640x480.
    """
    fewest = np.array([bound * image_pixels for bound in bounds])
    return np.searchsorted(fewest, areas.astype(np.int64) * _COCO_PIXELS, side="right").astype(np.uint8)


def count_objects(
    objects: Sequence[LabelObjects],
    truths: Sequence[Tensor],
    predictions: Sequence[Tensor],
    num_classes: int,
    num_sizes: int = len(SIZES),
) -> Tensor:
    """Count objects and pixels of every class and size.

    Args:
        objects: of each image.
        truths, predictions: [H,W] of each image, as in ``confusion_matrix``, on one device.
        num_classes: C.
        num_sizes: S.
    Returns:
        [C,S,4] int64 on the CPU, by class and size: objects, their pixels, the correct ones of these, and false
        positives. A false positive of a class belongs to its objects in the same image, in proportion to their pixels
        (Wang et al., https://arxiv.org/abs/2310.19252); it is not counted if there are none.
    """
    device, classes, images = predictions[0].device, num_classes, len(truths)
    size = torch.cat([one.sizes.flatten() for one in objects]).to(device).int()
    scored = size != NO_SIZE
    # 32 bits are three times as fast as 64. Classes of different images have different numbers; -1 stays before them.
    truth = torch.cat([labels.flatten().int() + image * classes for image, labels in enumerate(truths)])
    prediction = torch.cat([labels.flatten().int() + image * (classes + 1) for image, labels in enumerate(predictions)])
    is_correct = torch.cat([(one == other).flatten() for one, other in zip(truths, predictions, strict=True)])
    pairs = (truth * num_sizes + size) * 2 + is_correct
    by_size = _count(pairs, scored, images * classes * num_sizes * 2).view(images, classes, num_sizes, 2)
    predicted = _count(prediction + 1, scored, images * (classes + 1)).view(images, -1)[:, 1:]  # without unknown
    correct, pixels = by_size[..., 1], by_size.sum(-1)  # [B,C,S]
    false = _divide(predicted - correct.sum(2), pixels)
    found = torch.cat([one.objects for one in objects])
    number = torch.bincount(found[:, 0] * num_sizes + found[:, 1], minlength=classes * num_sizes)
    sums = (counts.sum(0) for counts in (pixels, correct, false))
    return torch.stack([number.view(classes, num_sizes), *sums], dim=-1)


def size_metric_names(groups: Sequence[str] = ()) -> list[str]:
    """Return the keys of the percentages of ``size_metrics``."""
    suffixes = ["", *(f"-{name}" for name in groups)]
    return [f"{metric}_{size}{suffix}" for suffix in suffixes for metric in SIZE_METRICS for size in SIZES]


def size_metrics(
    counts: Tensor | None, confusion: Tensor, groups: Mapping[str, Sequence[int]], sizes: Sequence[str] = SIZES
) -> dict[str, Any]:
    """Return metrics of each size of object, of all classes and of every group of classes.

    - ``mIoU_<size>``: mean IoU over the classes with such objects, in percent. All false positives of a class count,
      those in images without the class in proportion to the pixels of its objects in the data set. The IoU of a class
      is therefore between its IoUs of the three sizes.
    - ``mAcc_<size>``: share of correct pixels of a class's objects, mean over these classes, in percent.
    - ``objects_<size>``: number of objects.

    Names of groups are appended, as in ``mIoU_small-things``. None where there are no such objects.

    Args:
        counts: of ``count_objects``; None if they are not known.
        confusion: [C,C] or [C,C+1] of the same images.
        groups: name -> class indices.
        sizes: names of the S sizes.
    """
    every = {"": range(len(confusion)), **{f"-{name}": indices for name, indices in groups.items()}}
    is_known, counts = counts is not None, torch.zeros(len(confusion), len(sizes), 4) if counts is None else counts
    objects, pixels, correct, false = counts.double().unbind(-1)  # [C,S]
    of_class = confusion.double()
    elsewhere = of_class.sum(0)[: len(confusion)] - of_class.diagonal() - false.sum(1)  # [C]
    false = false + elsewhere[:, None] * pixels / pixels.sum(1, keepdim=True).clamp_min(1)
    values = {"mIoU": correct / (pixels + false).clamp_min(1), "mAcc": correct / pixels.clamp_min(1)}
    report: dict[str, Any] = {}
    for suffix, indices in every.items():
        for column, size in enumerate(sizes):
            present = [index for index in indices if pixels[index, column]]
            for metric, of_metric in values.items():
                mean = 100 * float(of_metric[present, column].mean()) if present else None
                report[f"{metric}_{size}{suffix}"] = mean
            report[f"objects_{size}{suffix}"] = int(objects[present, column].sum()) if is_known else None
    return report


def format_sizes(report: Mapping[str, Any]) -> str:
    """Format the mIoU of each size in a line, from a report with ``size_metrics``; a dash if there are no objects."""
    parts = []
    for size in SIZES:
        mean = report[f"mIoU_{size}"]
        parts.append(f"{size} {'-' if mean is None else f'{mean:.2f}'} ({report[f'objects_{size}'] or 0} objects)")
    return f"mIoU by size of object: {', '.join(parts)}"


def _count(values: Tensor, chosen: Tensor, bins: int) -> Tensor:
    """Count the chosen values, each of 0 to bins-1, and move the counts to the CPU."""
    return torch.bincount(torch.where(chosen, values, bins), minlength=bins + 1)[:-1].cpu()


def _divide(totals: Tensor, weights: Tensor) -> Tensor:
    """Divide whole numbers [B,C] in proportion to weights [B,C,S], to the nearest lower bound of their running sum.

    The parts are whole and add up to the total; all are 0 without weights.
    """
    reached = weights.cumsum(2)
    parts = totals[..., None] * reached // reached[..., -1:].clamp_min(1)
    return parts.diff(dim=2, prepend=torch.zeros_like(parts[..., :1]))
