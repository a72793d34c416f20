"""Evaluation protocols: the size at which the model sees an image, and the part that its result describes.

Every size is (height, width); every point is (x, y).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from cliptrase_d2.utils.errors import InputError, check_choice, name_arguments

PROTOCOLS = ("center_crop", "whole", "slide", "tiles", "published")
_WITH_VIEWS = ("whole", "slide")
_MAX_RESIZED_PIXELS = 2**28  # an image one pixel high would grow to gigabytes


@dataclass(frozen=True)
class Protocol:
    """How images are resized for a model.

    - ``center_crop``: model and result have the centre square, with sides of ``short_side``.
    - ``whole``, ``slide`` and ``tiles``: the model sees the image at ``short_side``; the result has its original size.
    - ``published``: the same, with sides of any number of pixels, resized by OpenCV; or, with ``square``, at
      ``short_side`` × ``short_side`` pixels, resized by Pillow's bicubic filter.

    Attributes:
        name: one of ``PROTOCOLS``.
        short_side: pixels; for ``center_crop`` a multiple of ``patch_size``. With ``tiles``, 0 keeps the original size.
        max_size: upper limit of the long side in pixels. ``center_crop`` and a ``short_side`` of 0 ignore it.
        patch_size: pixels of the model's patches.
        resampling: a filter of Pillow's ``Image.Resampling`` in lower case, for resizing. ``published`` ignores it.
        square: see ``published``. The other protocols ignore it.
    Raises:
        InputError: the name is unknown, or the sizes do not fit the patches.
    """

    name: str
    short_side: int
    max_size: int
    patch_size: int
    resampling: str = "bicubic"
    square: bool = False

    def __post_init__(self) -> None:
        check_choice("protocol", self.name, PROTOCOLS)
        if self.name == "tiles" and self.short_side == 0:
            return
        if self.short_side < self.patch_size or (self.crops and self.short_side % self.patch_size):
            got = f"{self.short_side} with patches of {self.patch_size} pixels"
            fix = f"Use {max(1, round(self.short_side / self.patch_size)) * self.patch_size}."
            raise InputError("short_side", got, fix, allowed=f"a multiple of {self.patch_size}")
        if not self.crops and self.max_size < self.short_side:
            allowed = f"at least the short side, {self.short_side}"
            raise InputError("max_size", self.max_size, "Raise it.", allowed=allowed)

    @property
    def crops(self) -> bool:
        """Whether the result describes only a part of the image."""
        return self.name == "center_crop"

    def crop(self, image: Image.Image, resample: Image.Resampling, where: object) -> Image.Image:
        """Return the part of an image that the result describes, at the size of the result.

        Args:
            image: photograph, or labels of mode "I".
            resample: bicubic for photographs, nearest for labels.
            where: the file, for error messages.
        Raises:
            InputError: the image is so thin that resizing it would need too much memory.
        """
        return resize_and_crop(image, self.short_side, resample, where) if self.crops else image

    def map_point(self, point: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
        """Map a pixel of an image to the part that ``crop`` returns.

        Args:
            point: (x, y) in pixels from the top left corner of the image.
            size: (height, width) of the image.
        Returns:
            (x, y) in pixels of the part.
        Raises:
            InputError: the point is outside the image or the part.
        """
        (x, y), (height, width) = point, size
        resized, start, part = size, (0, 0), size
        if self.crops:
            resized, start = compute_center_crop(height, width, self.short_side)
            part = (self.short_side, self.short_side)
        rows, columns = map(find_cropped_range, size, resized, start, part)
        if x not in columns or y not in rows:
            got = f"{x},{y} in an image of {width}x{height} pixels"
            allowed = f"x of {columns[0]} to {columns[-1]} and y of {rows[0]} to {rows[-1]}"
            fix = "Choose another point."
            if self.crops:
                allowed += ", the centre square that the model sees"
                fix = "Choose another point or the protocol whole."
            raise InputError("point", got, fix, allowed=allowed)
        return map_to_crop(x, width, resized[1], start[1]), map_to_crop(y, height, resized[0], start[0])

    def prepare_input(self, image: Image.Image, *, with_photograph: bool = False) -> dict[str, Any]:
        """Convert an image to the model's input.

        Args:
            image: RGB, as ``crop`` returned it.
            with_photograph: whether the model reads the image at its original size as well.
        Returns:
            ``image`` [3,H,W] uint8 RGB; ``height`` and ``width`` of the result; if wanted, ``photograph``
            [3,height,width] uint8 RGB.
        """
        height, width = image.height, image.width
        photograph = {"photograph": _to_tensor(image)} if with_photograph else {}
        if self.name == "published" and self.square:
            image = image.resize((self.short_side, self.short_side), Image.Resampling.BICUBIC)
        elif self.name == "published":
            size = compute_published_size(height, width, self.short_side, self.max_size)
            image = Image.fromarray(cv2.resize(np.array(image), size[::-1], interpolation=cv2.INTER_LINEAR))
        elif not self.crops and self.short_side:
            size = compute_whole_size(height, width, self.short_side, self.max_size, self.patch_size)
            image = image.resize(size[::-1], Image.Resampling[self.resampling.upper()])
        return {"image": _to_tensor(image), "height": height, "width": width, **photograph}


def _to_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image).transpose(2, 0, 1).copy())  # [3,H,W]


def build_views(
    name: str, short_sides: Sequence[int], max_size: int, patch_size: int, resampling: str
) -> list[Protocol]:
    """Return the protocol of each view of test-time augmentation. A view is made from the original image.

    Args:
        name: of the protocol of the evaluation.
        short_sides: TEST.AUG.MIN_SIZES.
        max_size: TEST.AUG.MAX_SIZE.
        patch_size, resampling: of the model.
    Raises:
        InputError: a protocol without views, no short side, or sizes that do not fit the patches.
    """
    check_views(name)
    if not short_sides or not all(isinstance(side, int) for side in short_sides):
        fix = "List the short sides of the views in pixels."
        raise InputError("TEST.AUG.MIN_SIZES", short_sides, fix, allowed="whole numbers, at least one")
    with name_arguments({"short_side": "TEST.AUG.MIN_SIZES", "max_size": "TEST.AUG.MAX_SIZE"}):
        return [Protocol(name, side, max_size, patch_size, resampling) for side in short_sides]


def check_views(name: str) -> None:
    """Check that test-time augmentation can average over views with this protocol.

    Raises:
        InputError: it cannot. With ``center_crop``, the labels have the size of one view. ``tiles`` is for images whose
            class scores do not fit into memory.
    """
    if name not in _WITH_VIEWS:
        fix, allowed = "Choose one of these, or set TEST.AUG.ENABLED False.", " or ".join(map(repr, _WITH_VIEWS))
        raise InputError("TEST.PROTOCOL", f"{name!r} with TEST.AUG.ENABLED True", fix, allowed=allowed)


def compute_center_crop(height: int, width: int, side: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the size after the short side is resized to ``side``, and the (top, left) corner of the centre square.

    Rounding follows torchvision's ``Resize`` and ``CenterCrop``, which the published numbers use: the long side is
    rounded down, the corner half to even.
    """
    short = min(height, width)
    size = (int(side * height / short), int(side * width / short))
    return size, (round((size[0] - side) / 2), round((size[1] - side) / 2))


def map_to_crop(pixel: int, length: int, resized: int, start: int) -> int:
    """Map the centre of a pixel to an axis that was resized and then cropped.

    Args:
        pixel: 0 to length - 1.
        length: of the axis in pixels.
        resized: its length after resizing.
        start: first pixel of the crop in the resized axis.
    Returns:
        Pixel of the crop; negative or beyond its end if the crop does not contain it.
    """
    return (2 * pixel + 1) * resized // (2 * length) - start


def find_cropped_range(length: int, resized: int, start: int, side: int) -> range:
    """Return the pixels of an axis that ``map_to_crop`` maps into a crop of ``side`` pixels."""
    first, end = (-(-(2 * length * edge - resized) // (2 * resized)) for edge in (start, start + side))
    return range(max(0, first), min(length, end))


def compute_whole_size(height: int, width: int, short_side: int, max_size: int, patch_size: int) -> tuple[int, int]:
    """Return the size with the short side at ``short_side``, or smaller if the long side would exceed ``max_size``.

    Both sides are rounded to at least one patch: an incomplete patch at the border would not be labelled. The aspect
    ratio changes by less than half a patch.
    """
    scale = min(short_side / min(height, width), max_size / max(height, width))
    most = max_size // patch_size
    return (
        max(1, min(most, round(height * scale / patch_size))) * patch_size,
        max(1, min(most, round(width * scale / patch_size))) * patch_size,
    )


def compute_published_size(height: int, width: int, short_side: int, max_size: int) -> tuple[int, int]:
    """Return the size with the short side at ``short_side``, or smaller if the long side would exceed ``max_size``.

    Rounding follows mmcv, which the published protocol uses: half a pixel is rounded up.
    """
    scale = min(max_size / max(height, width), short_side / min(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize_and_crop(image: Image.Image, side: int, resample: Image.Resampling, where: object) -> Image.Image:
    """Return the square of ``compute_center_crop``.

    Args:
        image: photograph, or labels of mode "I".
        side: of the result in pixels.
        resample: bicubic for photographs, nearest for labels.
        where: the file, for error messages.
    Raises:
        InputError: the resized image would have more than 2^28 pixels.
    """
    (height, width), (top, left) = compute_center_crop(image.height, image.width, side)
    if height * width > _MAX_RESIZED_PIXELS:
        got = f"{image.width}x{image.height} pixels, which the protocol center_crop resizes to {width}x{height}"
        allowed = f"at most {_MAX_RESIZED_PIXELS:,} pixels after resizing"
        raise InputError(where, got, "Use the protocol whole, or crop the image.", allowed=allowed)
    return image.resize((width, height), resample).crop((left, top, left + side, top + side))
