"""The result of segmenting an image."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from cliptrase_d2.d2 import Instances
from cliptrase_d2.pipeline.classify import class_confidence, mark_unknown
from cliptrase_d2.pipeline.upsample import upsampled_argmax, upsampled_at, upsampled_rows
from cliptrase_d2.segmenter.conversions import CocoSegment, coco_segments, make_instances
from cliptrase_d2.unknown import UNKNOWN_NAME, check_threshold
from cliptrase_d2.utils.atomic_files import atomic_write
from cliptrase_d2.utils.errors import InputError, WriteError
from cliptrase_d2.visualization.overlay import labels_at_size
from cliptrase_d2.visualization.picture import class_colours, class_shares, draw_labels

_MAX_LISTED = 5  # classes in the repr
_MAX_8_BIT_CLASSES = 255  # the value 255 is "unknown"
_GREY = (128, 128, 128)  # of unknown pixels in palettes


@dataclass(frozen=True)
class SoftMasks:
    """Mask proposals on their own grid, which are upsampled only if they are read.

    Attributes:
        maps: [Q,h,w] float32 on the CPU.
        size: (H, W) of the image.
    """

    maps: Tensor
    size: tuple[int, int]

    def upsample(self) -> np.ndarray:
        """Return the masks at the size of the image, [Q,H,W] float32."""
        if not len(self.maps):
            return np.zeros((0, *self.size), np.float32)
        return F.interpolate(self.maps[None], self.size, mode="bilinear", align_corners=False)[0].numpy()


class SegmentationResult:
    """One segmented image.

    >>> image, classes = np.zeros((2, 4, 3), np.uint8), ("sky", "road")
    >>> result = SegmentationResult(
    ...     image=image,
    ...     label_map=np.array([[0, 0, 0, 0], [0, 0, 1, 1]]),
    ...     classes=classes,
    ...     masks=np.ones((1, 2, 4), np.float32),
    ...     mask_logits=np.zeros((1, 2), np.float32),
    ...     scores=np.array([[[0.75]], [[0.25]]], np.float32),
    ... )
    >>> result
    SegmentationResult(4x2 pixels, 1 masks: sky 75.0%, road 25.0%)
    >>> road = result.to_coco()[1]
    >>> road["area"], road["bbox"], road["score"]
    (2, [2.0, 1.0, 2.0, 1.0], 0.25)
    >>> result.with_threshold(0.5).label_map
    array([[ 0,  0,  0,  0],
           [ 0,  0, -1, -1]])

    Args:
        image, label_map, classes, mask_logits: see the attributes.
        masks: the attribute, or masks on their own grid.
        scores: see the attribute; None if they are not known.
    Attributes:
        image: [H,W,3] uint8 RGB, upright. With the protocol ``center_crop``, the crop.
        label_map: [H,W] int64, index into ``classes``, or -1 for unknown pixels, which a threshold or nodata
            leaves.
        classes: C names.
        masks: [Q,H,W] float32, the mask proposals; empty with the protocol ``tiles``. They are computed when they are
            read for the first time.
        mask_logits: [Q,C] float32, the class scores of the masks.
        scores: [C,h,w] float32, the probability of each class at each point of the grid, with sum 1. The grid is that
            of CLIP's patches, or the method's. CLIPtrase: the softmax over the classes of CLIP's logits, where a class
            has the logit of its best word. They are the scores of pixels before masks, votes and refinement, so their
            argmax can differ from the label. SAN: the shares of the classes in the sum of its masks.
    """

    def __init__(
        self,
        image: np.ndarray,
        label_map: np.ndarray,
        classes: tuple[str, ...],
        masks: np.ndarray | SoftMasks,
        mask_logits: np.ndarray,
        scores: np.ndarray | None = None,
    ):
        self.image, self.label_map, self.classes, self.mask_logits = image, label_map, classes, mask_logits
        self._masks, self._scores = masks, scores

    @cached_property
    def masks(self) -> np.ndarray:
        """The mask proposals, [Q,H,W] float32."""
        return self._masks.upsample() if isinstance(self._masks, SoftMasks) else self._masks

    @property
    def scores(self) -> np.ndarray:
        """The probability of each class at each point of the grid, [C,h,w] float32.

        Raises:
            InputError: the result was made without scores.
        """
        if self._scores is None:
            raise InputError("scores", "a result that was made without them", "Pass scores to SegmentationResult.")
        return self._scores

    def __repr__(self) -> str:
        height, width = self.label_map.shape
        shares = self.shares()
        listed = ", ".join(f"{name} {shares[name]:.1%}" for name in list(shares)[:_MAX_LISTED])
        listed += f" and {len(shares) - _MAX_LISTED} more" if len(shares) > _MAX_LISTED else ""
        return f"SegmentationResult({width}x{height} pixels, {len(self.mask_logits)} masks: {listed})"

    def _repr_png_(self) -> bytes:
        """Return the overlay with its legend, which notebooks display."""
        buffer = io.BytesIO()
        Image.fromarray(self.overlay()).save(buffer, "PNG")
        return buffer.getvalue()

    def shares(self) -> dict[str, float]:
        """Return the share of the pixels, 0 to 1, of every class that occurs, the largest first.

        Unknown pixels come last, as "unknown".
        """
        names = (*self.classes, UNKNOWN_NAME)  # -1 is the last index
        return {names[index]: share for index, share in class_shares(self.label_map, len(self.classes))}

    def with_threshold(self, threshold: float) -> SegmentationResult:
        """Return the result with each pixel as unknown, -1, whose score of its class is below a threshold.

        The pixel is not given to another class. Pixels that are unknown already stay so.

        Args:
            threshold: least score, 0 to 1.
        Raises:
            InputError: a threshold outside 0 to 1.
        """
        labels, scores = torch.from_numpy(self.label_map), torch.from_numpy(self.scores)
        label_map = mark_unknown(labels, scores, check_threshold(threshold)).numpy()
        return SegmentationResult(self.image, label_map, self.classes, self._masks, self.mask_logits, self._scores)

    def score_map(self, category: str | int | None = None, size: tuple[int, int] | None = None) -> np.ndarray:
        """Return the scores of one class, or at every pixel that of its own class, upsampled bilinearly.

        Args:
            category: name or index of a class; None for the class of each pixel.
            size: (H', W') of the result; None for the size of the image.
        Returns:
            [H',W'] float32 in [0,1]; NaN at unknown pixels if there is no ``category``.
        Raises:
            InputError: a class that does not exist.
        """
        size, scores = size or (self.label_map.shape[0], self.label_map.shape[1]), torch.from_numpy(self.scores)
        if category is None:
            return upsampled_at(scores, torch.from_numpy(labels_at_size(self.label_map, size))).numpy()
        names = dict(zip(self.classes, range(len(self.classes)), strict=True))
        index = names.get(category) if isinstance(category, str) else category
        if index is None or not 0 <= index < len(self.classes):
            raise InputError("category", repr(category), "Choose a class.", allowed=", ".join(self.classes))
        return F.interpolate(scores[None, index : index + 1], size, mode="bilinear", align_corners=False)[0, 0].numpy()

    def score_rows(self, start: int, stop: int) -> np.ndarray:
        """Return the scores of all classes in the rows ``start`` to ``stop - 1`` of the image, [C,n,W] float32.

        All rows at once would take 4·C·H·W bytes.
        """
        size = (self.label_map.shape[0], self.label_map.shape[1])
        return upsampled_rows(torch.from_numpy(self.scores), size, start, stop).numpy()

    def top_k(self, count: int, point: tuple[int, int] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return the best classes of each point of the grid, or of one pixel, and their scores.

        Args:
            count: n, at most the number of classes.
            point: (x, y) in pixels from the top left corner of the image; None for all points of the grid.
        Returns:
            [n,h,w], or [n] for a pixel: class indices, int64, the best first, and scores, float32.
        Raises:
            InputError: a count of classes or a point that does not exist.
        """
        height, width = self.label_map.shape
        if not 1 <= count <= len(self.classes):
            raise InputError("count", count, "Change it.", allowed=f"1 to {len(self.classes)}, the number of classes")
        if point is None:
            scores = self.scores
        elif 0 <= point[0] < width and 0 <= point[1] < height:
            scores = self.score_rows(point[1], point[1] + 1)[:, 0, point[0]]
        else:
            allowed = f"x of 0 to {width - 1} and y of 0 to {height - 1}"
            raise InputError("point", f"{point[0]},{point[1]}", "Choose a pixel of the image.", allowed=allowed)
        best, index = torch.from_numpy(scores).sort(dim=0, descending=True, stable=True)
        return index[:count].numpy(), best[:count].numpy()

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

        ``numpy.array`` of the image, or of a PNG of it that Pillow reads, is the label map. Unknown pixels have the
        value 255, or 65535.
        """
        labels = self._unsigned_labels()
        image = Image.fromarray(labels)
        if labels.dtype == np.uint8:
            colours = np.full((256, 3), _GREY, np.uint8)
            colours[: len(self.classes)] = class_colours(self.classes, self.label_map)
            image.putpalette(colours.tobytes())
        return image

    def to_coco(self, image_id: int | str | None = None) -> list[CocoSegment]:
        """Return a COCO annotation for every class that occurs, for ``json.dumps`` and pycocotools.

        Args:
            image_id: of the image in your data set; None to omit it.
        Returns:
            For each class, in the order of the classes: ``category_id``, its index; ``category_name``;
            ``segmentation``, a compressed RLE; ``area`` in pixels; ``bbox`` as left, top, width, height; and ``score``,
            0 to 1, the mean of ``scores`` of the class over its pixels. Unknown pixels belong to no annotation.
        """
        confidence = None
        if self._scores is not None:
            confidence = class_confidence(torch.from_numpy(self.label_map), torch.from_numpy(self._scores)).numpy()
        segments = coco_segments(self.label_map, self.classes, confidence)
        return segments if image_id is None else [{**segment, "image_id": image_id} for segment in segments]

    def to_instances(self) -> Instances:
        """Return the mask proposals as Detectron2's ``Instances``, or as the fallback's if it is not installed.

        Returns:
            On the CPU: ``pred_masks`` [Q',H,W] bool, with every pixel in its strongest mask and empty masks left out;
            ``pred_classes`` [Q'] int64; ``scores`` [Q'], the softmax of the logits, 0 to 1; and ``pred_boxes`` as left,
            top, right, bottom. A refinement of the label map does not change them.
        """
        if not len(self.mask_logits):
            strongest = np.full(self.label_map.shape, -1)
        elif isinstance(self._masks, SoftMasks):
            strongest = upsampled_argmax(self._masks.maps[None], self._masks.size)[0].numpy()
        else:
            strongest = self._masks.argmax(0)
        return make_instances(strongest, self.mask_logits)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the overlay with its legend, in the format of the suffix.

        Raises:
            InputError: a suffix that Pillow cannot write, or a file that cannot be written.
        """
        write_picture(self.overlay(), path)

    def save_labels(self, path: str | os.PathLike[str]) -> None:
        """Write the label map as a PNG of class indices, which are those of a palette with the overlay's colours.

        Above 255 classes, the indices have 16 bits and no palette. Unknown pixels have the largest value, 255 or 65535.
        Pillow reads the indices; ``cv2.imread`` would return the colours.

        Raises:
            InputError: a suffix other than .png, or a file that cannot be written.
        """
        if not os.fspath(path).lower().endswith(".png"):
            raise InputError(path, "not a PNG file, which stores class indices exactly", "Use the suffix .png.")
        write_picture(self.to_pil(), path)

    def _unsigned_labels(self) -> np.ndarray:
        """Return the label map as integers without a sign, whose largest value is that of -1."""
        return self.label_map.astype(np.uint8 if len(self.classes) <= _MAX_8_BIT_CLASSES else np.uint16)


def write_picture(picture: np.ndarray | Image.Image, path: str | os.PathLike[str]) -> None:
    """Write a picture in the format of the suffix.

    Args:
        picture: an image, or pixels: [H,W] or [H,W,3] uint8, or [H,W] uint16.
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
        # Higher levels take four times as long and save a seventh of the size of a photograph. Labels compress well.
        image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
        options = {"compress_level": 1} if kind == "PNG" and image.mode == "RGB" else {}
        atomic_write(path, lambda file: image.save(file, format=kind, **options))
    except WriteError:
        raise
    except (ValueError, OSError) as error:  # including pixels that the format cannot store
        got = f"picture cannot be written ({type(error).__name__}: {error})"
        raise InputError(
            path, got, "Check that the folder exists, and use a suffix such as .png, .jpg or .webp."
        ) from error
