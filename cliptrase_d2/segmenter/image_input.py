"""Conversion of user images (paths, PIL images, arrays, tensors) to RGB pixels."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cliptrase_d2.data.images import MAX_PIXELS, convert_to_rgb, read_image
from cliptrase_d2.utils.errors import InputError

ImageLike: TypeAlias = str | os.PathLike[str] | Image.Image | np.ndarray | Tensor
_ALLOWED = "a path, a PIL image, a uint8 array [H,W] or [H,W,3|4] (grey, RGB, RGBA), or a uint8 tensor [1|3|4,H,W]"


def rgb_pixels(image: ImageLike, where: object, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Return an image as [H,W,3] uint8 RGB. Alpha is dropped and the EXIF orientation applied.

    Args:
        image: a path, a PIL image, an array with the channels last, or a tensor with the channels first.
        where: name of the image in error messages; a path is its own name.
        max_pixels: limit for files and PIL images, which may not be decoded yet; 0 for no limit.
    Raises:
        InputError: an unreadable file, too many pixels, or an unsupported type, dtype or shape.
    """
    if isinstance(image, str | os.PathLike):
        return read_image(Path(image), max_pixels)
    if isinstance(image, Image.Image):
        return convert_to_rgb(image, where, max_pixels)
    if isinstance(image, Tensor):
        return _convert_tensor(image, where)
    if not isinstance(image, np.ndarray):
        raise InputError(where, f"unsupported type {type(image).__name__}", "Convert the image.", allowed=_ALLOWED)
    if image.dtype != np.uint8:
        fix = "Scale it to 0..255 and convert it: (array * 255).round().astype('uint8') for values of 0..1."
        raise InputError(where, f"an array of {image.dtype}{_describe_range(image)}", fix, allowed=_ALLOWED)
    if image.size == 0 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (3, 4)):
        fix = "Pass one image at a time, with the channels last."
        raise InputError(where, f"an array of shape {list(image.shape)}", fix, allowed=_ALLOWED)
    return image[..., :3] if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)


def check_several(images: Iterable[ImageLike]) -> None:
    """Raise an InputError for a single image. Some types are iterable, but not over images."""
    is_single = isinstance(images, str | os.PathLike | Image.Image)
    if is_single or (isinstance(images, np.ndarray | Tensor) and images.ndim != 4):
        raise InputError("images", f"a single {type(images).__name__}", "Put it in a list.")


def _convert_tensor(image: Tensor, where: object) -> np.ndarray:
    if image.dtype != torch.uint8:
        fix = "Scale it to 0..255 and convert it: (tensor * 255).round().byte() for values of 0..1."
        values = _describe_range(image.detach().cpu().float().numpy())
        raise InputError(where, f"a tensor of {str(image.dtype).removeprefix('torch.')}{values}", fix, allowed=_ALLOWED)
    array = image.cpu().numpy()
    if array.size == 0 or array.ndim != 3 or len(array) not in (1, 3, 4):
        fix = "Pass one image at a time, with the channels first."
        raise InputError(where, f"a tensor of shape {list(array.shape)}", fix, allowed=_ALLOWED)
    rgb = array[:3] if len(array) >= 3 else np.repeat(array, 3, axis=0)  # [3,H,W]
    return np.ascontiguousarray(rgb.transpose(1, 2, 0))


def _describe_range(array: np.ndarray) -> str:
    has_range = array.size and array.dtype.kind in "iuf"
    return f" from {array.min():g} to {array.max():g}" if has_range else ""
