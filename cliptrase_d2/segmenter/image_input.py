"""What a user may call an image, and its pixels."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cliptrase_d2.data.image_files import MAX_PIXELS
from cliptrase_d2.data.images import read_image, upright_rgb
from cliptrase_d2.utils.errors import InputError

ImageLike: TypeAlias = str | os.PathLike[str] | Image.Image | np.ndarray | Tensor
_ALLOWED = (
    "a path, a PIL image, a uint8 array [H,W] or [H,W,3|4] of grey, RGB or RGBA, or a uint8 tensor [1|3|4,H,W] of these"
)


def rgb_pixels(image: ImageLike, where: object, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """[H,W,3] uint8 RGB of an image in any of its forms; alpha is dropped, an EXIF orientation applied.

    Args:
        image: a path, a PIL image, an array with its channels last, or a tensor with its channels first.
        where: what the message of an error should call it; a path is called by its name.
        max_pixels: most of a file or a PIL image, which may not be decoded yet; 0 for no bound.
    Raises:
        InputError: a file that cannot be read, too many pixels, or what is no image.
    """
    if isinstance(image, str | os.PathLike):
        return read_image(Path(image), max_pixels)
    if isinstance(image, Image.Image):
        return upright_rgb(image, where, max_pixels)
    if isinstance(image, Tensor):
        return _of_tensor(image, where)
    if not isinstance(image, np.ndarray):
        raise InputError(where, f"a {type(image).__name__}", "Convert it.", allowed=_ALLOWED)
    if image.dtype != np.uint8:
        fix = "Scale it to 0..255 and convert it: (array * 255).round().astype('uint8') for values of 0..1."
        raise InputError(where, f"an array of {image.dtype}{_range(image)}", fix, allowed=_ALLOWED)
    if image.size == 0 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (3, 4)):
        fix = "Bring the channels last, and give one image at a time."
        raise InputError(where, f"an array of shape {list(image.shape)}", fix, allowed=_ALLOWED)
    return image[..., :3] if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)


def several_images(images: Iterable[ImageLike]) -> Iterable[ImageLike]:
    """The images, if they are several: a single one can be iterated over, too, but not in a way that is meant.

    Raises:
        InputError: it is one image.
    """
    one = isinstance(images, str | os.PathLike | Image.Image)
    if one or (isinstance(images, np.ndarray | Tensor) and images.ndim != 4):
        got = f"a single {type(images).__name__}"
        raise InputError("images", got, "Put it in a list.", allowed="a list of images, or an array of them")
    return images


def _of_tensor(image: Tensor, where: object) -> np.ndarray:
    if image.dtype != torch.uint8:
        fix = "Scale it to 0..255 and convert it: (tensor * 255).round().byte() for values of 0..1."
        got = f"a tensor of {str(image.dtype).removeprefix('torch.')}{_range(image.detach().cpu().float().numpy())}"
        raise InputError(where, got, fix, allowed=_ALLOWED)
    array = image.cpu().numpy()
    if array.size == 0 or array.ndim != 3 or len(array) not in (1, 3, 4):
        fix = "Bring the channels first, and give one image at a time."
        raise InputError(where, f"a tensor of shape {list(array.shape)}", fix, allowed=_ALLOWED)
    colours = array[:3] if len(array) >= 3 else np.repeat(array, 3, axis=0)
    return np.ascontiguousarray(colours.transpose(1, 2, 0))


def _range(array: np.ndarray) -> str:
    """Smallest and largest value, where there are such."""
    number = array.size and array.dtype.kind in "iuf"
    return f" from {array.min():g} to {array.max():g}" if number else ""
