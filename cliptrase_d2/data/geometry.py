"""The sizes at which each protocol shows an image to the model. Every size is (height, width)."""

from __future__ import annotations

from PIL import Image

from cliptrase_d2.utils.errors import InputError

_MOST_PIXELS = 2**28  # a line of one pixel's height would be blown up to gigabytes


def center_crop_geometry(height: int, width: int, side: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Size after the short side became ``side``, and the top left corner of the square in its middle.

    Rounding is torchvision's (``Resize`` then ``CenterCrop``), which the published numbers rest on: the long
    side is rounded down, the corner to the nearest even.
    """
    short = min(height, width)
    size = (int(side * height / short), int(side * width / short))
    return size, (round((size[0] - side) / 2), round((size[1] - side) / 2))


def cropped_place(place: int, length: int, resized: int, start: int) -> int:
    """Where the middle of a pixel of one axis lies once the axis is resized and cut off before ``start``.

    Args:
        place: pixel, 0 to length - 1.
        length: of the axis in pixels, before.
        resized: the same, after.
        start: first pixel of the crop, in the resized axis.
    Returns:
        Pixel of the crop; below 0 or beyond its side for one that is cut off.
    """
    return (2 * place + 1) * resized // (2 * length) - start


def cropped_range(length: int, resized: int, start: int, side: int) -> range:
    """The pixels of one axis that ``cropped_place`` leaves inside a crop of ``side`` pixels."""
    first, after = (-(-(2 * length * edge - resized) // (2 * resized)) for edge in (start, start + side))
    return range(max(0, first), min(length, after))


def whole_size(height: int, width: int, short_side: int, max_size: int, patch_size: int) -> tuple[int, int]:
    """Size with the short side at ``short_side``, unless that puts the long one over ``max_size``.

    Both sides are then rounded to whole patches, at least one: a patch cut off at the border would be
    neither seen nor labelled. This changes the aspect by less than half a patch.
    """
    scale = min(short_side / min(height, width), max_size / max(height, width))
    most = max_size // patch_size
    return (
        max(1, min(most, round(height * scale / patch_size))) * patch_size,
        max(1, min(most, round(width * scale / patch_size))) * patch_size,
    )


def resize_and_crop(image: Image.Image, side: int, resample: Image.Resampling, where: object) -> Image.Image:
    """The square of ``center_crop_geometry``.

    Args:
        image: photograph, or labels of mode "I".
        side: n, of the result.
        resample: bicubic for photographs, nearest for labels.
        where: the file, for the message.
    Raises:
        InputError: an image so thin that its long side explodes.
    """
    (height, width), (top, left) = center_crop_geometry(image.height, image.width, side)
    if height * width > _MOST_PIXELS:
        raise InputError(
            where,
            f"{image.width}x{image.height} pixels, which the protocol center_crop makes {width}x{height}",
            "Use the protocol whole, or cut the image.",
            allowed=f"at most {_MOST_PIXELS} pixels after resizing",
        )
    return image.resize((width, height), resample).crop((left, top, left + side, top + side))
