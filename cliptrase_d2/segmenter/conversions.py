"""Conversion of results to COCO annotations and to Detectron2's ``Instances``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import torch
from pycocotools import mask as coco
from scipy.special import softmax
from torchvision.ops import masks_to_boxes

from cliptrase_d2.d2 import Boxes, Instances


class _Segment(TypedDict):
    category_id: int
    category_name: str
    segmentation: dict[str, Any]
    area: int
    bbox: list[float]


class CocoSegment(_Segment, total=False):
    """One class in one image, in the format of COCO annotations and results. ``bbox`` is left, top, width, height."""

    image_id: int | str
    score: float


def coco_segments(
    label_map: np.ndarray, classes: Sequence[str], masks: np.ndarray, mask_logits: np.ndarray
) -> list[CocoSegment]:
    """Return one segment per class that occurs, in the order of the classes.

    Args:
        label_map: [H,W] class indices, 0 to C-1.
        classes: C names.
        masks: [Q,H,W]. If Q is 0, segments have no score.
        mask_logits: [Q,C].
    """
    strongest = masks.argmax(0) if len(masks) else None  # [H,W]
    scores = softmax(mask_logits, axis=1)  # [Q,C]
    segments = []
    for index in np.unique(label_map).tolist():
        inside = label_map == index
        encoded: Any = coco.encode(np.asfortranarray(inside, dtype=np.uint8))
        segment = CocoSegment(
            category_id=index,
            category_name=classes[index],
            segmentation={**encoded, "counts": encoded["counts"].decode()},
            area=int(coco.area(encoded)),
            bbox=coco.toBbox(encoded).tolist(),
        )
        if strongest is not None:
            segment["score"] = float(scores[strongest[inside], index].mean())
        segments.append(segment)
    return segments


def make_instances(size: tuple[int, int], masks: np.ndarray, mask_logits: np.ndarray) -> Instances:
    """Return one instance per mask that is the strongest somewhere. Each pixel belongs to its strongest mask.

    Args:
        size: (H, W).
        masks: [Q,H,W].
        mask_logits: [Q,C].
    """
    strongest = masks.argmax(0) if len(masks) else np.full(size, -1)  # [H,W]
    used = np.unique(strongest[strongest >= 0])
    hard = torch.from_numpy(strongest == used[:, None, None])  # [Q',H,W]
    scores = softmax(mask_logits[used], axis=1)  # [Q',C]
    return Instances(
        size,
        pred_boxes=Boxes(masks_to_boxes(hard) + torch.tensor([0.0, 0.0, 1.0, 1.0])),  # right and bottom are exclusive
        scores=torch.from_numpy(scores.max(1)),
        pred_classes=torch.from_numpy(scores.argmax(1)),
        pred_masks=hard,
    )
