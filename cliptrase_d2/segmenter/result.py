"""What a segmented image is handed back as."""

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
from cliptrase_d2.visualization.overlay import overlay, palette
from cliptrase_d2.visualization.picture import class_shares, labelled_picture

_SHOWN = 5  # classes in the short form
_SUFFIXES = ".png, .jpg, .webp or another suffix that Pillow writes"
_MOST_IN_8_BITS = 255  # classes: label files mostly mean "ignored" by 255


@dataclass(frozen=True, eq=False, repr=False)
class SegmentationResult:
    """One image, segmented.

    >>> image, words = np.zeros((2, 4, 3), np.uint8), ("sky", "road")
    >>> result = SegmentationResult(
    ...     image=image,
    ...     label_map=np.array([[0, 0, 0, 0], [0, 0, 1, 1]]),
    ...     classes=words,
    ...     masks=np.ones((1, 2, 4), np.float32),
    ...     mask_logits=np.zeros((1, 2), np.float32),
    ... )
    >>> result
    SegmentationResult(4x2 pixels, 1 masks: sky 75.0%, road 25.0%)
    >>> road = result.to_coco()[1]
    >>> road["area"], road["bbox"], road["score"]
    (2, [2.0, 1.0, 2.0, 1.0], 0.5)

    Attributes:
        image: [H,W,3] uint8 RGB, what the label map describes: upright, and with the protocol
            ``center_crop`` the crop.
        label_map: [H,W] int64, index into ``classes``.
        classes: C names.
        masks: [Q,H,W] float32, the mask proposals; none with the protocol ``tiles``.
        mask_logits: [Q,C] float32, their scores for every class.
    """

    image: np.ndarray
    label_map: np.ndarray
    classes: tuple[str, ...]
    masks: np.ndarray
    mask_logits: np.ndarray

    def __repr__(self) -> str:
        height, width = self.label_map.shape
        shares = self.shares()
        found = ", ".join(f"{name} {shares[name]:.1%}" for name in list(shares)[:_SHOWN])
        found += f" and {len(shares) - _SHOWN} more" if len(shares) > _SHOWN else ""
        return f"SegmentationResult({width}x{height} pixels, {len(self.masks)} masks: {found})"

    def _repr_png_(self) -> bytes:
        """What notebooks show: the overlay with its legend."""
        picture = io.BytesIO()
        Image.fromarray(self.overlay()).save(picture, "PNG")
        return picture.getvalue()

    def shares(self) -> dict[str, float]:
        """Share of the pixels, 0 to 1, of every class that occurs, the largest first."""
        return {self.classes[index]: share for index, share in class_shares(self.label_map, len(self.classes))}

    def overlay(self, legend: bool = True) -> np.ndarray:
        """The image under the colours of its classes.

        Args:
            legend: add their names and shares on the right.
        Returns:
            [H,W',3] uint8 RGB; W' is W without a legend.
        """
        if legend:
            return labelled_picture(self.image, self.label_map, self.classes)
        return overlay(self.image, self.label_map, palette(len(self.classes)))

    def to_pil(self) -> Image.Image:
        """The class indices as an image: of mode "P" in the colours of the overlay, "I;16" above 255 classes.

        Either way ``numpy.array`` of it, or of the PNG that it is saved as and Pillow reads, is the label map.
        """
        if len(self.classes) > _MOST_IN_8_BITS:
            return Image.fromarray(self.label_map.astype(np.uint16))
        image = Image.fromarray(self.label_map.astype(np.uint8))
        image.putpalette(palette(len(self.classes)).tobytes())
        return image

    def to_coco(self, image_id: int | str | None = None) -> list[CocoSegment]:
        """Every class that occurs, as an annotation of COCO; ``json.dumps`` takes it, and so does pycocotools.

        Args:
            image_id: of this image in your data set; None leaves it out.
        Returns:
            For each class, in their order, ``category_id``, its index, and ``category_name``; ``segmentation``, a
            compressed RLE; ``area`` in pixels; ``bbox``: left, top, width, height; and ``score``, 0 to 1: how sure the
            masks are of the class, the softmax of their logits, averaged over its pixels, of which each counts for the
            strongest mask there. An image without masks has no scores.
        """
        segments = coco_segments(self.label_map, self.classes, self.masks, self.mask_logits)
        return segments if image_id is None else [{**segment, "image_id": image_id} for segment in segments]

    def to_instances(self) -> Instances:
        """The mask proposals as Detectron2's ``Instances``; where that is not installed, its fallback's.

        Returns:
            On the CPU ``pred_masks`` [Q',H,W] bool, every pixel in the mask that is strongest there, those without
            pixels left out; ``pred_classes`` [Q'] int64; ``scores`` [Q'], the softmax of their logits, 0 to 1;
            and ``pred_boxes``: left, top, right, bottom. A refinement does not show in them.
        """
        height, width = self.label_map.shape
        return make_instances((height, width), self.masks, self.mask_logits)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the overlay with its legend; the suffix decides the format.

        Raises:
            InputError: a suffix that Pillow does not write, or a place that cannot be written.
        """
        write_picture(self.overlay(), path)

    def save_labels(self, path: str | os.PathLike[str]) -> None:
        """Write the label map as PNG of class indices, 16-bit above 255 classes.

        Raises:
            InputError: a suffix other than .png, or a place that cannot be written.
        """
        if not os.fspath(path).lower().endswith(".png"):
            raise InputError(
                path, "a file for class indices", "Use .png.", allowed="the suffix .png, which keeps them exactly"
            )
        depth = np.uint8 if len(self.classes) <= _MOST_IN_8_BITS else np.uint16
        write_picture(self.label_map.astype(depth), path, ".png")


def write_picture(pixels: np.ndarray, path: str | os.PathLike[str], suffixes: str = _SUFFIXES) -> None:
    """Write pixels, [H,W] or [H,W,3], in the format that the suffix names.

    Args:
        pixels: uint8, or grey uint16.
        path: of the file.
        suffixes: those that are allowed, for the message.
    Raises:
        InputError: a suffix that Pillow does not write, or a place that cannot be written.
    """
    path = Path(path)
    kind = Image.registered_extensions().get(path.suffix.lower())
    try:
        if kind not in Image.SAVE:
            raise ValueError(f"no format for the suffix {path.suffix!r}")
        if not path.parent.is_dir():
            raise FileNotFoundError(f"no folder {path.parent}")
        atomic_write(path, lambda file: Image.fromarray(pixels).save(file, format=kind))
    except WriteError:
        raise
    except (ValueError, OSError) as error:  # also pixels that a format does not hold
        raise InputError(
            path,
            f"a picture that could not be written ({type(error).__name__}: {error})",
            "Check the folder and the suffix.",
            allowed=f"a file in an existing folder, with the suffix {suffixes}",
        ) from error
