"""The result of segmenting an image."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from cliptrase_d2.d2 import Instances
from cliptrase_d2.segmenter.conversions import CocoSegment, coco_segments, make_instances
from cliptrase_d2.utils.atomic_files import atomic_write
from cliptrase_d2.utils.errors import InputError, WriteError
from cliptrase_d2.visualization.picture import class_colours, class_shares, draw_labels

_MAX_LISTED = 5  # classes in the repr
_MAX_8_BIT_CLASSES = 255  # label files usually reserve 255 for ignored pixels


@dataclass(frozen=True, eq=False, repr=False)
class SegmentationResult:
    """One segmented image.

    >>> image, classes = np.zeros((2, 4, 3), np.uint8), ("sky", "road")
    >>> result = SegmentationResult(
    ...     image=image,
    ...     label_map=np.array([[0, 0, 0, 0], [0, 0, 1, 1]]),
    ...     classes=classes,
    ...     masks=np.ones((1, 2, 4), np.float32),
    ...     mask_logits=np.zeros((1, 2), np.float32),
    ... )
    >>> result
    SegmentationResult(4x2 pixels, 1 masks: sky 75.0%, road 25.0%)
    >>> road = result.to_coco()[1]
    >>> road["area"], road["bbox"], road["score"]
    (2, [2.0, 1.0, 2.0, 1.0], 0.5)

    Attributes:
        image: [H,W,3] uint8 RGB, upright. With the protocol ``center_crop``, the crop.
        label_map: [H,W] int64, index into ``classes``.
        classes: C names.
        masks: [Q,H,W] float32, the mask proposals; empty with the protocol ``tiles``.
        mask_logits: [Q,C] float32, the class scores of the masks.
    """

    image: np.ndarray
    label_map: np.ndarray
    classes: tuple[str, ...]
    masks: np.ndarray
    mask_logits: np.ndarray

    def __repr__(self) -> str:
        height, width = self.label_map.shape
        shares = self.shares()
        listed = ", ".join(f"{name} {shares[name]:.1%}" for name in list(shares)[:_MAX_LISTED])
        listed += f" and {len(shares) - _MAX_LISTED} more" if len(shares) > _MAX_LISTED else ""
        return f"SegmentationResult({width}x{height} pixels, {len(self.masks)} masks: {listed})"

    def _repr_png_(self) -> bytes:
        """Return the overlay with its legend, which notebooks display."""
        buffer = io.BytesIO()
        Image.fromarray(self.overlay()).save(buffer, "PNG")
        return buffer.getvalue()

    def shares(self) -> dict[str, float]:
        """Return the share of the pixels, 0 to 1, of every class that occurs, the largest first."""
        return {self.classes[index]: share for index, share in class_shares(self.label_map, len(self.classes))}

    def overlay(self, legend: bool = True, names: bool = True) -> np.ndarray:
        """Draw the image under the colours of its classes.

        Results with the same classes share their colours, as frames of a video do.

        Args:
            legend: add class names and shares on the right.
            names: write the names of the classes on large regions.
        Returns:
            [H,W',3] uint8 RGB; W' is W without a legend.
        """
        return draw_labels(self.image, self.label_map, self.classes, legend=legend, names=names)

    def to_pil(self) -> Image.Image:
        """Return the label map as an image: mode "P" with the overlay's colours, or "I;16" above 255 classes.

        ``numpy.array`` of the image, or of a PNG of it that Pillow reads, is the label map.
        """
        if len(self.classes) > _MAX_8_BIT_CLASSES:
            return Image.fromarray(self.label_map.astype(np.uint16))
        image = Image.fromarray(self.label_map.astype(np.uint8))
        image.putpalette(class_colours(self.classes, self.label_map).tobytes())
        return image

    def to_coco(self, image_id: int | str | None = None) -> list[CocoSegment]:
        """Return a COCO annotation for every class that occurs, for ``json.dumps`` and pycocotools.

        Args:
            image_id: of the image in your data set; None to omit it.
        Returns:
            For each class, in the order of the classes: ``category_id``, its index; ``category_name``;
            ``segmentation``, a compressed RLE; ``area`` in pixels; ``bbox`` as left, top, width, height; and ``score``,
            0 to 1. The score is the class's softmax of the mask logits, averaged over the pixels of the class, each of
            which takes it from the strongest mask there. Without masks, there is no score.
        """
        segments = coco_segments(self.label_map, self.classes, self.masks, self.mask_logits)
        return segments if image_id is None else [{**segment, "image_id": image_id} for segment in segments]

    def to_instances(self) -> Instances:
        """Return the mask proposals as Detectron2's ``Instances``, or as the fallback's if it is not installed.

        Returns:
            On the CPU: ``pred_masks`` [Q',H,W] bool, with every pixel in its strongest mask and empty masks left out;
            ``pred_classes`` [Q'] int64; ``scores`` [Q'], the softmax of the logits, 0 to 1; and ``pred_boxes`` as left,
            top, right, bottom. A refinement of the label map does not change them.
        """
        height, width = self.label_map.shape
        return make_instances((height, width), self.masks, self.mask_logits)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the overlay with its legend, in the format of the suffix.

        Raises:
            InputError: a suffix that Pillow cannot write, or a file that cannot be written.
        """
        write_picture(self.overlay(), path)

    def save_labels(self, path: str | os.PathLike[str]) -> None:
        """Write the label map as a PNG of class indices, with 16 bits above 255 classes.

        Raises:
            InputError: a suffix other than .png, or a file that cannot be written.
        """
        if not os.fspath(path).lower().endswith(".png"):
            raise InputError(path, "not a PNG file, which stores class indices exactly", "Use the suffix .png.")
        dtype = np.uint8 if len(self.classes) <= _MAX_8_BIT_CLASSES else np.uint16
        write_picture(self.label_map.astype(dtype), path)


def write_picture(pixels: np.ndarray, path: str | os.PathLike[str]) -> None:
    """Write a picture in the format of the suffix.

    Args:
        pixels: [H,W] or [H,W,3] uint8, or [H,W] uint16.
        path: file, in an existing folder.
    Raises:
        InputError: a suffix that Pillow cannot write, or a file that cannot be written.
    """
    path = Path(path)
    kind = Image.registered_extensions().get(path.suffix.lower())
    try:
        if kind not in Image.SAVE:
            raise ValueError(f"unknown suffix {path.suffix!r}")
        if not path.parent.is_dir():
            raise FileNotFoundError(f"no folder {path.parent}")
        atomic_write(path, lambda file: Image.fromarray(pixels).save(file, format=kind))
    except WriteError:
        raise
    except (ValueError, OSError) as error:  # including pixels that the format cannot store
        got = f"picture cannot be written ({type(error).__name__}: {error})"
        raise InputError(
            path, got, "Check that the folder exists, and use a suffix such as .png, .jpg or .webp."
        ) from error
