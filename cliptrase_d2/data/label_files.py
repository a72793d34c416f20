"""Reading of label files."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from cliptrase_d2.data.images import (
    MAX_PIXELS,
    SIXTEEN_BIT_MODES,
    check_pixels,
    check_planes,
    counts_from_white,
    open_image,
    verify_png,
)
from cliptrase_d2.utils.errors import InputError

LABEL_FORMATS = ("PNG", "TIFF")  # lossless
_LABEL_MODES = ("1", "L", "P", "I", *SIXTEEN_BIT_MODES)
# Pillow stretches grey values of 2 and 4 bits, which PNG optimisers write, to 0..255. "R" means reversed bit order.
_STRETCH = {"L;2": 85, "L;2R": 85, "L;4": 17, "L;4R": 17}
_WHITE_IS_ZERO = ("L;2I", "L;2IR", "L;4I", "L;4IR", "L;I", "L;IR")  # TIFF files whose values Pillow inverts
_LOSSY = ("jpeg", "tiff_jpeg", "webp")  # TIFF compressions
# First column, first row, column step and row step of each pass of an interlaced PNG.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def read_label(path: str | Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read the raw values of a label file: grey values or palette indices.

    Args:
        path: PNG or TIFF file. Its suffix does not matter.
        max_pixels: most pixels to decode; 0 for no limit.
    Returns:
        [H,W] int32.
    Raises:
        InputError: the file does not exist, is broken, too large or lossy, or has several channels or images.
    """
    with open_image(path, LABEL_FORMATS) as image:
        check_pixels(image.size, max_pixels, path)
        return _read_values(image, path)


def read_record_label(record: Mapping[str, Any], size: tuple[int, int]) -> np.ndarray:
    """Read the label file of a record. It is only decoded if it has the size of the image.

    Args:
        record: ``file_name`` and ``sem_seg_file_name``.
        size: width and height of the image after its EXIF rotation.
    Returns:
        [H,W] int32 raw values.
    Raises:
        InputError: as ``read_label``, or the sizes differ.
    """
    file = record["sem_seg_file_name"]
    with open_image(file, LABEL_FORMATS) as image:
        if image.size == size:
            return _read_values(image, file)
        got = f"{image.width}x{image.height} pixels, but its image {record['file_name']} has {size[0]}x{size[1]}"
        fix = "Check that the two belong together."
        if image.size == size[::-1]:
            fix = "Rotate the label file as the EXIF rotation rotates the image."
        raise InputError(file, got, fix)


def _read_values(image: ImageFile.ImageFile, path: str | Path) -> np.ndarray:
    """Decode an open label file: [H,W] int32."""
    if image.mode not in _LABEL_MODES:
        allowed = "one channel of integers: 8 or 16 bit grey, palette indices, or 32 bit TIFF"
        raise InputError(path, f"labels of mode {image.mode}", "Convert the colours to class indices.", allowed=allowed)
    if image.format == "PNG":
        verify_png(path)
        _check_png_rows(Path(path).read_bytes())
    check_planes(image, path)
    encoding = _get_encoding(image)
    from_white = encoding in _WHITE_IS_ZERO or counts_from_white(image)
    for is_fault, got, fix in (
        (image.info.get("compression") in _LOSSY, "lossy compression changes labels", "Use LZW or ZIP."),
        (from_white, "grey values count from white to black", "Write 0 as black."),
        (_has_second_image(image), "several images", "Keep only the image with the labels."),
    ):
        if is_fault:
            raise InputError(path, got, fix)
    image.load()
    return np.asarray(image).astype(np.int32) // _STRETCH.get(encoding, 1)


def _check_png_rows(content: bytes) -> None:
    """Raise if a PNG with one channel lacks rows, which Pillow would read as 0. Its checksums may still be correct."""
    header, pixels, kind, start = b"", [], b"", 8
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", content, start)
        data = content[start + 8 : start + 8 + length]
        start += length + 12
        if kind == b"IDAT":
            pixels.append(data)
        elif kind == b"IHDR" and not pixels:
            header = data
    width, height, bits, *_, interlaced = struct.unpack(">IIBBBBB", header)
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    shapes = [(-(-(width - column) // right), -(-(height - row) // down)) for column, row, right, down in passes]
    # One byte before each row names its filter.
    expected = sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in shapes if columns > 0 and rows > 0)
    if len(zlib.decompressobj().decompress(b"".join(pixels), expected)) < expected:
        raise OSError("rows are missing")


def _get_encoding(image: ImageFile.ImageFile) -> str:
    """Return how the pixels of an image that is not decoded yet are stored: Pillow's raw mode.

    Raises:
        OSError: some pixels are not stored. Pillow would read them as 0.
    """
    area = 0
    for part in image.tile:
        left, top, right, bottom = part[1] or (0, 0, *image.size)
        area += (right - left) * (bottom - top)
    if area < image.width * image.height:
        raise OSError("rows are missing")
    arguments = image.tile[0][3]
    return arguments if isinstance(arguments, str) else str((arguments or ("",))[0])


def _has_second_image(image: Image.Image) -> bool:
    """Return whether a file has a second image of the same size. Smaller ones are previews."""
    size = image.size
    try:
        image.seek(1)
    except EOFError:
        return False
    has_second = image.size == size
    image.seek(0)
    return has_second
