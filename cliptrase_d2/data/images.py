"""Reads photographs and label files of every common encoding."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from cliptrase_d2.errors import InputError

# What Pillow raises, by format, on data that breaks its rules.
_BROKEN = (OSError, SyntaxError, ValueError, LookupError, TypeError, struct.error, zlib.error)
_SIXTEEN_BIT_MODES = ("I;16", "I;16B", "I;16L")
_LABEL_MODES = ("1", "L", "P", "I", *_SIXTEEN_BIT_MODES)
# Pillow stretches grey values of 2 and 4 bits to 0..255. PNG optimisers write labels like this.
_STRETCHED_BY = {"L;2": 85, "L;4": 17}


def read_image(path: str | Path) -> np.ndarray:
    """Read a photograph the way it is looked at.

    The EXIF orientation is applied, grey, palette and CMYK become RGB, 16 bits become 8, alpha is dropped.

    Returns:
        [H,W,3] uint8 RGB.
    Raises:
        InputError: a file that is missing, broken or truncated, or of pixels that are no colours.
    """
    image, _ = _load(path, turn=True)
    return _rgb(image, path)


def upright_rgb(image: Image.Image, where: object) -> np.ndarray:
    """An open image in the same form as ``read_image`` returns it.

    Args:
        image: decoded or not.
        where: what the message of an error should call it.
    Raises:
        InputError: a broken or truncated image, or pixels that are no colours.
    """
    with _explained(where):
        upright = ImageOps.exif_transpose(image)
    return _rgb(upright, where)


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


def read_size(path: str | Path, formats: tuple[str, ...] | None = None) -> tuple[int, int]:
    """(width, height) of an image file as they are stored; no pixel is decoded.

    Args:
        path: of the file.
        formats: Pillow's names of those that are tried; None for all that it knows.
    Raises:
        InputError: a file that is missing or in none of the formats, or of more pixels than Pillow opens.
    """
    with _explained(path), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # it is the caller who asks for the size
        with Image.open(path, formats=formats) as image:
            return image.size


def read_label(path: str | Path) -> np.ndarray:
    """Read the raw values of a label file; those of a palette are its indices.

    Returns:
        [H,W] int32.
    Raises:
        InputError: a file that is missing, broken or truncated, or of several channels.
    """
    image, encoding = _load(path, turn=False)
    if image.mode not in _LABEL_MODES:
        raise InputError(
            path,
            f"a label file of mode {image.mode}",
            "one channel of whole numbers: 8 or 16 bit grey, palette indices, or 32 bit TIFF",
            "Convert the colours to class indices in one channel.",
        )
    return np.asarray(image).astype(np.int32) // _STRETCHED_BY.get(encoding, 1)


def read_label_of(record: Mapping[str, Any], size: tuple[int, int]) -> np.ndarray:
    """Read the labels of an image, which must be of its size.

    Args:
        record: ``file_name`` and ``sem_seg_file_name``.
        size: width and height of the image as it is looked at.
    Returns:
        [H,W] int32 raw values.
    Raises:
        InputError: as ``read_label``, or another size.
    """
    file, (width, height) = record["sem_seg_file_name"], size
    raw = read_label(file)
    if raw.shape != (height, width):
        turned = raw.shape == (width, height)
        raise InputError(
            file,
            f"{raw.shape[1]}x{raw.shape[0]} pixels, its image {record['file_name']} {width}x{height}",
            "the size of the image" + (" after its EXIF rotation" if turned else ""),
            "Turn the label file the way the image is shown." if turned else "Check that the two belong together.",
        )
    return raw


def _load(path: str | Path, *, turn: bool) -> tuple[Image.Image, str]:
    """The decoded image, turned by its EXIF orientation if asked, and how its pixels are stored (Pillow's raw mode)."""
    with _explained(path), Image.open(path) as image:
        arguments = image.tile[0][3] if image.tile else ""
        encoding = arguments if isinstance(arguments, str) else str((arguments or ("",))[0])
        image.load()
        return (ImageOps.exif_transpose(image) if turn else image.copy()), encoding


@contextmanager
def _explained(where: object) -> Iterator[None]:
    """Say of whatever Pillow raises while it decodes what the user can do about it."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(where, "no such file", "an existing image", "Check the path.") from error
    except Image.DecompressionBombError as error:
        raise InputError(
            where, "too many pixels", f"{2 * (Image.MAX_IMAGE_PIXELS or 0)} at most", "Cut it up."
        ) from error
    except _BROKEN as error:
        raise InputError(
            where,
            f"unreadable ({type(error).__name__}: {error})",
            "a whole image file that Pillow can open",
            "Fetch or export the file again, or remove it.",
        ) from error


def _no_colours(where: object, came: str) -> InputError:
    return InputError(where, came, "8 or 16 bits per channel, grey or colour", "Convert the image, to PNG for example.")
