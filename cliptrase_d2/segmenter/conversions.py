"""A result in the forms that other tools take: COCO's annotations and Detectron2's instances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import torch
from scipy.special import softmax

from cliptrase_d2.d2 import Boxes, Instances
from cliptrase_d2.segmenter import rle


class _Segment(TypedDict):
    category_id: int
    category_name: str
    segmentation: dict[str, Any]
    area: int
    bbox: list[float]


class CocoSegment(_Segment, total=False):
    """One class in one image, as COCO's annotations and results have it; ``bbox`` is left, top, width, height."""

    image_id: int | str
    score: float


def coco_segments(
    label_map: np.ndarray, classes: Sequence[str], masks: np.ndarray, mask_logits: np.ndarray
) -> list[CocoSegment]:
    """A segment for every class that occurs, in the order of the classes.

    Args:
        label_map: [H,W] class indices, 0 to C-1.
        classes: C names.
        masks: [Q,H,W].
        mask_logits: [Q,C]; without masks, no segment has a score.
    """
    strongest = masks.argmax(0) if len(masks) else None
    scores = softmax(mask_logits, axis=1)  # [Q,C]
    segments = []
    for index in np.unique(label_map).tolist():
        inside = label_map == index
        encoded = rle.encode(inside)
        segment = CocoSegment(
            category_id=index,
            category_name=classes[index],
            segmentation=rle.compress(encoded),
            area=rle.area(encoded["counts"]),
            bbox=_bbox(inside),
        )
        if strongest is not None:
            segment["score"] = float(scores[strongest[inside], index].mean())
        segments.append(segment)
    return segments


def make_instances(size: tuple[int, int], masks: np.ndarray, mask_logits: np.ndarray) -> Instances:
    """The masks that have pixels, each pixel in the one that is strongest there.

    Args:
        size: (H, W).
        masks: [Q,H,W].
        mask_logits: [Q,C].
    """
    strongest = masks.argmax(0) if len(masks) else np.full(size, -1)
    used = np.unique(strongest[strongest >= 0])
    hard = strongest == used[:, None, None]  # [Q',H,W]
    scores = softmax(mask_logits[used], axis=1)  # [Q',C]
    return Instances(
        size,
        pred_boxes=Boxes(torch.tensor([_corners(mask) for mask in hard], dtype=torch.float32).reshape(-1, 4)),
        scores=torch.from_numpy(scores.max(1)),
        pred_classes=torch.from_numpy(scores.argmax(1)),
        pred_masks=torch.from_numpy(hard),
    )


def _corners(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a mask with pixels, the last two beside it."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _bbox(mask: np.ndarray) -> list[float]:
    left, top, right, bottom = _corners(mask)
    return [float(left), float(top), float(right - left), float(bottom - top)]
