"""Conversion of user images (paths, PIL images, arrays, tensors) to RGB pixels."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from cliptrase_d2.data.images import (
    MAX_PIXELS,
    SIXTEEN_BIT_MODES,
    check_pixels,
    convert_picture,
    read_picture,
    wrap_decoding_errors,
)
from cliptrase_d2.data.rendering import NO_RENDERING, Picture, Rendering, render_values
from cliptrase_d2.utils.errors import InputError

ImageLike: TypeAlias = str | os.PathLike[str] | Image.Image | np.ndarray | Tensor
_ALLOWED = (
    "a path, a PIL image, an array [H,W] or [H,W,1|3|4] (grey, RGB, RGBA), or a tensor [1|3|4,H,W]; "
    "arrays and tensors are uint8, or float in [0,1]"
)


def rgb_pixels(image: ImageLike, where: object, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Return the pixels of ``read_input``, [H,W,3] uint8 RGB."""
    return read_input(image, where, max_pixels).pixels


def read_input(
    image: ImageLike, where: object, max_pixels: int = MAX_PIXELS, rendering: Rendering = NO_RENDERING
) -> Picture:
    """Return an image as RGB, with its nodata. Alpha is dropped and the EXIF orientation applied.

    Args:
        image: a path, a PIL image, an array with the channels last, or a tensor with the channels first,
            uint8 or float in [0,1]. An array or tensor may have an axis of length 1 before the others. With a
            rendering, it may have any bands and type, and NaN and infinity are nodata.
        where: name of the image in error messages; a path is its own name.
        max_pixels: limit for files and PIL images, which may not be decoded yet; 0 for no limit.
        rendering: of raw values.
    Raises:
        InputError: an unreadable file, too many pixels, or an unsupported type, dtype or shape.
    """
    if isinstance(image, str | os.PathLike):
        return read_picture(Path(image), max_pixels, rendering=rendering)
    if rendering:
        return render_values(_list_bands(image, where, max_pixels), rendering, where)
    if isinstance(image, Image.Image):
        return convert_picture(image, where, max_pixels)
    return Picture(_convert_tensor(image, where) if isinstance(image, Tensor) else _convert_array(image, where))


def _list_bands(image: ImageLike, where: object, max_pixels: int) -> np.ndarray:
    """Return the raw values [B,H,W] of an image that is no path."""
    if isinstance(image, Image.Image):
        if image.mode not in ("I", "F", *SIXTEEN_BIT_MODES):
            return convert_picture(image, where, max_pixels).pixels.transpose(2, 0, 1)
        check_pixels(image.size, max_pixels, where)
        with wrap_decoding_errors(where):
            return np.asarray(ImageOps.exif_transpose(image))[None]
    if isinstance(image, Tensor):
        image = image.detach().cpu()
        is_first, values = True, (image.float() if image.dtype == torch.bfloat16 else image).numpy()
    else:
        is_first, values = False, np.asarray(image)
    values = values[0] if values.ndim == 4 and len(values) == 1 else values
    if values.ndim == 3 and not is_first:
        values = values.transpose(2, 0, 1)
    values = values[None] if values.ndim == 2 else values
    if values.ndim != 3 or not values.size or values.dtype.kind not in "iuf":
        got = f"{type(image).__name__} of {values.dtype} with shape {list(values.shape)}"
        raise InputError(where, got, "Pass one image at a time.", allowed="numbers [H,W,B], or a tensor [B,H,W]")
    return values


def _convert_array(image: object, where: object) -> np.ndarray:
    if not isinstance(image, np.ndarray):
        raise InputError(where, f"unsupported type {type(image).__name__}", "Convert the image.", allowed=_ALLOWED)
    pixels = image[0] if image.ndim == 4 and len(image) == 1 else image
    if pixels.size == 0 or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (1, 3, 4)):
        fix = "Pass one image at a time, with the channels last."
        raise InputError(where, f"an array of shape {list(image.shape)}", fix, allowed=_ALLOWED)
    pixels = _to_uint8(pixels, "an array of", where)
    if pixels.ndim == 3 and pixels.shape[2] >= 3:
        return pixels[..., :3]
    return np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2)  # [H,W] or [H,W,1] to [H,W,3]


def check_several(images: Iterable[ImageLike]) -> None:
    """Raise an InputError for a single image. Some types are iterable, but not over images."""
    is_single = isinstance(images, str | os.PathLike | Image.Image)
    if is_single or (isinstance(images, np.ndarray | Tensor) and images.ndim != 4):
        raise InputError("images", f"a single {type(images).__name__}", "Put it in a list.")


def _convert_tensor(image: Tensor, where: object) -> np.ndarray:
    tensor = image.detach().cpu()
    tensor = tensor[0] if tensor.ndim == 4 and len(tensor) == 1 else tensor
    if tensor.numel() == 0 or tensor.ndim != 3 or len(tensor) not in (1, 3, 4):
        fix = "Pass one image at a time, with the channels first."
        raise InputError(where, f"a tensor of shape {list(image.shape)}", fix, allowed=_ALLOWED)
    if tensor.dtype == torch.bfloat16:  # NumPy has no such type
        tensor = tensor.float()
    array = _to_uint8(tensor.numpy(), "a tensor of", where)
    rgb = array[:3] if len(array) >= 3 else np.repeat(array, 3, axis=0)  # [3,H,W]
    return np.ascontiguousarray(rgb.transpose(1, 2, 0))


def _to_uint8(values: np.ndarray, kind: str, where: object) -> np.ndarray:
    """Return uint8 values unchanged, and floats in [0,1] in 0 to 255.

    Raises:
        InputError: another type, or floats outside [0,1] or that are NaN.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind == "f" and 0 <= values.min() <= values.max() <= 1:  # false for NaN
        return np.rint(values.astype(np.float32) * 255).astype(np.uint8)
    value_range = f" from {values.min():g} to {values.max():g}" if values.dtype.kind in "iuf" else ""
    fix = "Convert it to uint8 in 0..255, or divide it by its largest possible value."
    raise InputError(where, f"{kind} {values.dtype}{value_range}", fix, allowed=_ALLOWED)
