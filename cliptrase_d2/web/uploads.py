"""Validation of a visitor's input: the photo and the class names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cliptrase_d2.cli.class_arguments import split_names
from cliptrase_d2.data.images import read_image
from cliptrase_d2.ready_vocabularies import MARK
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.visualization.panels import fit_long_side
from cliptrase_d2.vocabulary import SYNONYM_SEPARATOR, Vocabulary

MAX_SIDE = 1024  # pixels; larger photos are segmented and shown at this size
MAX_WORDS = 200  # typed; a ready list has a known length
# Pillow supports many more formats, some of which run programs or trust their headers. MPO (phones) opens as JPEG.
_FORMATS = ("JPEG", "PNG", "WEBP")


@dataclass(frozen=True, eq=False)
class Photo:
    """An uploaded photo.

    Attributes:
        name: file name without folder and suffix.
        pixels: [H,W,3] uint8 RGB, upright, with a long side of at most ``MAX_SIDE``.
        size: (height, width) of the original, upright.
    """

    name: str
    pixels: np.ndarray
    size: tuple[int, int]


def read_photo(path: str | None, max_pixels: int) -> Photo:
    """Read an uploaded photo.

    Args:
        path: the server's copy, which error messages do not reveal; None if there is none.
        max_pixels: larger photos are rejected before they are decoded.
    Raises:
        InputError: no photo, a deleted copy, an unsupported or damaged file, or too many pixels.
    """
    if not path:
        raise InputError("Photo", "missing", "Drop a photo on the page, or choose an example.")
    file = Path(path)
    if not file.is_file():
        raise InputError("Photo", "expired, because uploads are deleted after a while", "Upload the photo again.")
    try:
        pixels = read_image(file, max_pixels, formats=_FORMATS)
    except InputError as error:
        got = str(error.got).replace(str(file), file.name)
        fix = f"Use a JPEG, PNG or WebP file of at most {max_pixels:,} pixels (the server's --max-pixels)."
        raise InputError("Photo", got, fix) from error
    size = pixels.shape[0], pixels.shape[1]
    return Photo(file.stem, fit_long_side(pixels, MAX_SIDE) if max(size) > MAX_SIDE else pixels, size)


def read_vocabulary(classes: str, background: str) -> Vocabulary:
    """Parse class names and background prompts, as the page shows them in its two text boxes.

    Args:
        classes: names, separated by commas or line breaks; "a;b" are synonyms of one class.
        background: the same for prompts, and "@name" for those of a ready list.
    Raises:
        InputError: no class, an empty or repeated name, an unknown ready list, or more than ``MAX_WORDS`` words.
    """
    names, prompts = split_names(classes), split_names(background)
    typed = sum(1 + entry.count(SYNONYM_SEPARATOR) for entry in names + prompts if not entry.startswith(MARK))
    if typed > MAX_WORDS:
        raise InputError("Classes", f"{typed} words", "Remove some.", allowed=f"at most {MAX_WORDS}")
    Vocabulary.parse(names, where="Classes")
    return Vocabulary.parse(names, prompts, where="Background")
