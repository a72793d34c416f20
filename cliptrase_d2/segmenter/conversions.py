"""Conversion of results to COCO annotations and to Detectron2's ``Instances``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import cv2
import numpy as np
import torch
from pycocotools import mask as coco
from torchvision.ops import masks_to_boxes

from cliptrase_d2.d2 import Boxes, Instances
from cliptrase_d2.unknown import UNKNOWN
from cliptrase_d2.visualization.picture import class_shares


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
    label_map: np.ndarray, classes: Sequence[str], confidence: np.ndarray | None = None
) -> list[CocoSegment]:
    """Return one segment per class that occurs, in the order of the classes.

    Args:
        label_map: [H,W] class indices, 0 to C-1, or -1 for unknown, which is no segment.
        classes: C names.
        confidence: [C], the score of each class; None for segments without a score.
    """
    # COCO counts column by column. One small transposed copy serves all classes; -1 becomes the largest value.
    columns = cv2.transpose(label_map.astype(np.uint8 if len(classes) < 256 else np.uint16))  # [W,H]
    segments = []
    for index in sorted(index for index, _ in class_shares(label_map, len(classes)) if index != UNKNOWN):
        encoded: Any = coco.encode((columns == index).view(np.uint8).T)
        segment = CocoSegment(
            category_id=index,
            category_name=classes[index],
            segmentation={**encoded, "counts": encoded["counts"].decode()},
            area=int(coco.area(encoded)),
            bbox=coco.toBbox(encoded).tolist(),
        )
        if confidence is not None:
            segment["score"] = float(confidence[index])
        segments.append(segment)
    return segments


def make_coco_dataset(
    segments: Sequence[CocoSegment], classes: Sequence[str], file_name: str, size: tuple[int, int]
) -> dict[str, Any]:
    """Return a COCO data set of one image, which ``pycocotools.coco.COCO`` reads.

    Args:
        segments: annotations of the image, with the ``image_id`` 1.
        classes: C names; a ``category_id`` is an index of them.
        file_name: of the image.
        size: (H, W).
    """
    return {
        "images": [{"id": 1, "file_name": file_name, "height": size[0], "width": size[1]}],
        "categories": [{"id": index, "name": name} for index, name in enumerate(classes)],
        "annotations": [{**segment, "id": index, "iscrowd": 0} for index, segment in enumerate(segments, 1)],
    }


def make_instances(strongest: np.ndarray, mask_logits: np.ndarray) -> Instances:
    """Return one instance per mask that is the strongest somewhere. Each pixel belongs to its strongest mask.

    Args:
        strongest: [H,W] int64, the mask 0 to Q-1 of every pixel, or -1 for none.
        mask_logits: [Q,C].
    """
    used = np.unique(strongest[strongest >= 0])
    hard = torch.from_numpy(strongest == used[:, None, None])  # [Q',H,W]
    scores = torch.from_numpy(mask_logits[used]).softmax(1)  # [Q',C]
    return Instances(
        (strongest.shape[0], strongest.shape[1]),
        pred_boxes=Boxes(masks_to_boxes(hard) + torch.tensor([0.0, 0.0, 1.0, 1.0])),  # right and bottom are exclusive
        scores=scores.amax(1),
        pred_classes=scores.argmax(1),
        pred_masks=hard,
    )
