"""Reads photographs and label files of every common encoding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile, ImageOps

from cliptrase_d2.data.image_files import (
    IMAGE_FORMATS,
    LABEL_FORMATS,
    MAX_PIXELS,
    check_pixels,
    explained,
    opened,
)
from cliptrase_d2.data.png import check_png
from cliptrase_d2.utils.errors import InputError

_SIXTEEN_BIT_MODES = ("I;16", "I;16B", "I;16L")
_LABEL_MODES = ("1", "L", "P", "I", *_SIXTEEN_BIT_MODES)
# Pillow stretches grey values of 2 and 4 bits to 0..255. PNG optimisers write labels like this. "R": bits in reverse.
_STRETCHED_BY = {"L;2": 85, "L;2R": 85, "L;4": 17, "L;4R": 17}
# TIFF files that count from white to black; Pillow turns their values round, others do not.
_TURNED_ROUND = ("L;2I", "L;2IR", "L;4I", "L;4IR", "L;I", "L;IR")
_LOSSY = ("jpeg", "tiff_jpeg", "webp")  # compressions of TIFF


def read_image(path: str | Path, max_pixels: int = MAX_PIXELS, *, formats: Sequence[str] = IMAGE_FORMATS) -> np.ndarray:
    """Read a photograph the way it is looked at.

    The EXIF orientation is applied, grey, palette and CMYK become RGB, 16 bits become 8, alpha is dropped. Of a file of
    several pictures it is the first.

    Args:
        path: of the file.
        max_pixels: most that are decoded; 0 for no bound.
        formats: Pillow's names of those that are tried.
    Returns:
        [H,W,3] uint8 RGB.
    Raises:
        InputError: a file that is missing, broken, truncated or too large, or of pixels that are no colours.
    """
    with opened(path, formats) as image:
        check_pixels(image.size, max_pixels, path)
        if image.format == "PNG":
            check_png(path, all_pixels=False)
        return upright_rgb(image, path, max_pixels)


def upright_rgb(image: Image.Image, where: object, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """An open image in the same form as ``read_image`` returns it.

    Args:
        image: decoded or not.
        where: what the message of an error should call it.
        max_pixels: most that it may have; 0 for no bound.
    Raises:
        InputError: a broken, truncated or too large image, or pixels that are no colours.
    """
    check_pixels(image.size, max_pixels, where)
    with explained(where):
        image.load()
        return _rgb(ImageOps.exif_transpose(image), where)


def _rgb(image: Image.Image, where: object) -> np.ndarray:
    if image.mode in (*_SIXTEEN_BIT_MODES, "I"):
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise _no_colours(where, "32 bits per pixel")
        return np.repeat(((grey * 255 + 32767) // 65535).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode == "F":
        raise _no_colours(where, "floating point pixels")
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # Pillow wants a palette with transparency to take this way
    try:
        return np.array(image.convert("RGB"))
    except ValueError as error:
        raise _no_colours(where, f"the colour mode {image.mode}") from error


def read_size(path: str | Path, formats: Sequence[str] = IMAGE_FORMATS) -> tuple[int, int]:
    """(width, height) of an image file as they are stored; no pixel is decoded.

    Args:
        path: of the file.
        formats: Pillow's names of those that are tried.
    Raises:
        InputError: a file that is missing or in none of the formats.
    """
    with opened(path, formats) as image:
        return image.size


def read_label(path: str | Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read the raw values of a label file; those of a palette are its indices.

    Args:
        path: of a PNG or TIFF file, whatever its name ends in.
        max_pixels: most that are decoded; 0 for no bound.
    Returns:
        [H,W] int32.
    Raises:
        InputError: a file that is missing, broken, truncated or too large, or of several channels or pictures.
    """
    with opened(path, LABEL_FORMATS) as image:
        check_pixels(image.size, max_pixels, path)
        return _raw_values(image, path)


def read_label_of(record: Mapping[str, Any], size: tuple[int, int]) -> np.ndarray:
    """Read the labels of an image, which must be of its size; others are not even decoded.

    Args:
        record: ``file_name`` and ``sem_seg_file_name``.
        size: width and height of the image as it is looked at.
    Returns:
        [H,W] int32 raw values.
    Raises:
        InputError: as ``read_label``, or another size.
    """
    file = record["sem_seg_file_name"]
    with opened(file, LABEL_FORMATS) as image:
        if image.size == size:
            return _raw_values(image, file)
        turned = image.size == size[::-1]
        raise InputError(
            file,
            f"{image.width}x{image.height} pixels, its image {record['file_name']} {size[0]}x{size[1]}",
            "Turn the label file the way the image is shown." if turned else "Check that the two belong together.",
            allowed="the size of the image" + (" after its EXIF rotation" if turned else ""),
        )


def _raw_values(image: ImageFile.ImageFile, path: str | Path) -> np.ndarray:
    """Decode an open label file."""
    if image.mode not in _LABEL_MODES:
        raise InputError(
            path,
            f"a label file of mode {image.mode}",
            "Convert the colours to class indices in one channel.",
            allowed="one channel of whole numbers: 8 or 16 bit grey, palette indices, or 32 bit TIFF",
        )
    if image.format == "PNG":
        check_png(path, all_pixels=True)
    encoding = _encoding(image)
    for fault, fix in (
        (image.info.get("compression") in _LOSSY and "a compression that changes values", "Use LZW or ZIP."),
        (encoding in _TURNED_ROUND and "grey values that count from white to black", "Write 0 as black."),
        (_has_another_page(image) and "several pictures", "Keep the one that holds the labels."),
    ):
        if fault:
            allowed = "a single picture whose values are stored as they are"
            raise InputError(path, f"a label file of {fault}", fix, allowed=allowed)
    image.load()
    return np.asarray(image).astype(np.int32) // _STRETCHED_BY.get(encoding, 1)


def _encoding(image: ImageFile.ImageFile) -> str:
    """How the pixels of an image that is not decoded yet are stored: Pillow's raw mode.

    Raises:
        OSError: some of them are nowhere in the file; Pillow takes these for 0.
    """
    covered = 0
    for part in image.tile:
        left, top, right, bottom = part[1] or (0, 0, *image.size)
        covered += (right - left) * (bottom - top)
    if covered < image.width * image.height:
        raise OSError("not all of its rows are in it")
    arguments = image.tile[0][3]
    return arguments if isinstance(arguments, str) else str((arguments or ("",))[0])


def _has_another_page(image: Image.Image) -> bool:
    """Whether a second picture of the same size follows; smaller ones are previews."""
    size = image.size
    try:
        image.seek(1)
    except EOFError:
        return False
    another = image.size == size
    image.seek(0)
    return another


def _no_colours(where: object, got: str) -> InputError:
    return InputError(
        where, got, "Convert the image, to PNG for example.", allowed="8 or 16 bits per channel, grey or colour"
    )
