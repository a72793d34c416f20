"""Pictures of segmented images: overlay, legend and, for evaluations, the ground truth."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from cliptrase_d2.visualization.legend import LegendEntry, add_caption, add_legend
from cliptrase_d2.visualization.overlay import labels_at_size, overlay, palette

_NOT_SCORED, _BLACK = "(not scored)", (0, 0, 0)  # no class is black
_MIN_SIDE = 320  # pixels; a legend does not fit beside a smaller image


def class_shares(label_map: np.ndarray, count: int) -> list[tuple[int, float]]:
    """Return the index and the share of the pixels, 0 to 1, of every class that occurs, the largest first.

    Args:
        label_map: [H,W] class indices, 0 to C-1.
        count: C.
    """
    pixels = np.bincount(label_map.ravel(), minlength=count)
    order = np.argsort(-pixels, kind="stable")
    return [(int(index), float(pixels[index] / pixels.sum())) for index in order if pixels[index]]


def draw_labels(
    image: np.ndarray, label_map: np.ndarray, classes: Sequence[str], colours: np.ndarray | None = None
) -> np.ndarray:
    """Draw an image under the colours of its classes, with class names and shares on the right.

    Args:
        image: [H,W,3] uint8 RGB.
        label_map: [H,W] class indices, 0 to C-1.
        classes: C names.
        colours: [C,3] uint8 RGB; None for ``palette``.
    Returns:
        [H,W',3] uint8 RGB, W' > W.
    """
    colours = palette(len(classes)) if colours is None else colours
    shares = class_shares(label_map, len(classes))
    entries = [LegendEntry(classes[index], share, colours[index]) for index, share in shares]
    return add_legend(overlay(image, label_map, colours), entries)


def draw_evaluation(
    image: np.ndarray, prediction: np.ndarray, truth: np.ndarray | None, classes: Sequence[str], ignore_label: int
) -> np.ndarray:
    """Draw the prediction over the image and, if available, the ground truth on its left, each with a caption.

    Args:
        image: [H,W,3] uint8 RGB, the input of the model. Small images are enlarged by a whole factor.
        prediction: class indices, 0 to C-1, of any size; resized to the image.
        truth: class indices or the ignore label, drawn in black; None without ground truth.
        classes: C names.
        ignore_label: label of pixels that are not scored.
    Returns:
        [H',W',3] uint8 RGB.
    """
    factor = -(-_MIN_SIDE // min(image.shape[:2]))
    image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    prediction = labels_at_size(prediction, image.shape[:2])
    if truth is None:
        return draw_labels(image, prediction, classes)
    truth = labels_at_size(truth, image.shape[:2])
    truth = np.where(truth == ignore_label, len(classes), truth)
    names, colours = [*classes, _NOT_SCORED], np.vstack([palette(len(classes)), _BLACK]).astype(np.uint8)
    pictures = (("ground truth", truth), ("prediction", prediction))
    return np.concatenate(
        [add_caption(draw_labels(image, labels, names, colours), caption) for caption, labels in pictures], axis=1
    )
