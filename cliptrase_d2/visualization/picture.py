"""Pictures of segmented images: overlay, legend and, for evaluations, the ground truth."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from cliptrase_d2.unknown import UNKNOWN, UNKNOWN_NAME
from cliptrase_d2.visualization.colours import shared_colours
from cliptrase_d2.visualization.legend import LegendEntry, add_caption, add_legend, count_rows
from cliptrase_d2.visualization.names import draw_names
from cliptrase_d2.visualization.overlay import OPACITY, labels_at_size, overlay

NOT_SCORED, _BLACK = "(not scored)", (0, 0, 0)  # no class is black
_MIN_SIDE = 320  # pixels; a legend does not fit beside a smaller image


def class_shares(label_map: np.ndarray, count: int) -> list[tuple[int, float]]:
    """Return the index and the share of the pixels, 0 to 1, of every class that occurs, the largest first.

    Args:
        label_map: [H,W] class indices, 0 to C-1, or -1 for unknown, which comes last.
        count: C.
    """
    is_known = label_map >= 0
    known = label_map.ravel() if is_known.all() else label_map[is_known]
    pixels = np.bincount(known, minlength=count)
    shares = [(int(index), float(pixels[index] / label_map.size)) for index in np.argsort(-pixels, kind="stable")]
    return [(index, share) for index, share in [*shares, (UNKNOWN, 1 - known.size / label_map.size)] if share]


def class_colours(classes: Sequence[str], label_map: np.ndarray) -> np.ndarray:
    """Return the colours of classes, [C,3] uint8 RGB, for pictures of a label map.

    All pictures of this process with the same classes share them. See `ClassColours`.

    Args:
        classes: C names.
        label_map: class indices, 0 to C-1, or -1 for unknown.
    """
    shares = class_shares(label_map, len(classes))
    return shared_colours(tuple(classes)).assign(index for index, _ in shares if index != UNKNOWN)


def draw_labels(
    image: np.ndarray,
    label_map: np.ndarray,
    classes: Sequence[str],
    colours: np.ndarray | None = None,
    *,
    legend: bool = True,
    fixed_legend: bool = False,
    names: bool = True,
    opacity: float = OPACITY,
) -> np.ndarray:
    """Draw an image under the colours of its classes.

    Args:
        image: [H,W,3] uint8 RGB.
        label_map: [H,W] class indices, 0 to C-1, or -1 for unknown, which has no tint.
        classes: C names.
        colours: [C,3] uint8 RGB; None for ``class_colours``.
        legend: add class names and shares on the right.
        fixed_legend: for frames of a video: all classes in their order if there is room, and always of one width.
        names: write the names of the classes on large regions.
        opacity: of the colours, 0 to 1.
    Returns:
        [H,W',3] uint8 RGB; W' is W without a legend.
    """
    colours = class_colours(classes, label_map) if colours is None else colours
    picture = overlay(image, label_map, colours, opacity)
    if names:
        picture = draw_names(picture, label_map, classes)
    if not legend:
        return picture
    shares = dict(class_shares(label_map, len(classes)))
    if fixed_legend and len(classes) < count_rows(len(image)):  # the last row is that of unknown pixels
        shares = dict.fromkeys(range(len(classes)), 0.0) | shares
    entries = [
        LegendEntry(UNKNOWN_NAME, share, None)
        if index == UNKNOWN
        else LegendEntry(classes[index], share, colours[index])
        for index, share in shares.items()
    ]
    return add_legend(picture, entries, [*classes, UNKNOWN_NAME] if fixed_legend else ())


def draw_evaluation(
    image: np.ndarray, prediction: np.ndarray, truth: np.ndarray | None, classes: Sequence[str], ignore_label: int
) -> np.ndarray:
    """Draw the prediction over the image and, if available, the ground truth on its left, each with a caption.

    Args:
        image: [H,W,3] uint8 RGB, the input of the model. Small images are enlarged by a whole factor.
        prediction: class indices, 0 to C-1, or -1 for unknown, of any size; resized to the image.
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
    both = np.concatenate([prediction.ravel(), truth[truth != len(classes)]])  # the pictures share their colours
    names, colours = [*classes, NOT_SCORED], np.vstack([class_colours(classes, both), _BLACK]).astype(np.uint8)
    pictures = (("ground truth", truth), ("prediction", prediction))
    return np.concatenate(
        [add_caption(draw_labels(image, labels, names, colours), caption) for caption, labels in pictures], axis=1
    )
