"""What a visitor hands in: a photograph, and words; both are measured before they cost anything."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from cliptrase_d2.data.images import read_image, read_size
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vocabulary import Vocabulary

SHOWN_SIDE = 1024  # pixels of a photograph's long side from which on it is worked on, and shown, at a smaller size
MOST_WORDS = 200
# Pillow knows many more, some of which run programs or believe whatever a header says. Phones' MPO opens as JPEG.
_FORMATS = ("JPEG", "PNG", "WEBP")
_WHERE = "Photograph"


@dataclass(frozen=True, eq=False)
class Photo:
    """A photograph that is worked on.

    Attributes:
        name: of its file, without folder and suffix.
        pixels: [H,W,3] uint8 RGB, upright, the long side at most ``SHOWN_SIDE``.
        size: (height, width) of the photograph as it was handed in, upright.
    """

    name: str
    pixels: np.ndarray
    size: tuple[int, int]


def read_photo(path: str | None, max_pixels: int) -> Photo:
    """Read a photograph that was handed in.

    Args:
        path: of the server's copy; None for none. No message names it.
        max_pixels: most that are decoded.
    Raises:
        InputError: no photograph, one that is gone, too large or broken, or a file of another kind.
    """
    if not path:
        raise InputError(_WHERE, "none", "Drop one into its place, or choose an example.", allowed="a picture")
    file = Path(path)
    if not file.is_file():
        raise InputError(
            _WHERE, "a file that is not kept any more", "Choose the photograph again.", allowed="a new upload"
        )
    with _told_to_visitors(file):
        width, height = read_size(file, _FORMATS)
    if width * height > max_pixels:
        got, allowed = f"{width:,} x {height:,} pixels", f"{max_pixels:,} pixels"
        raise InputError(_WHERE, got, "Make it smaller (the server's --max-pixels sets this bound).", allowed=allowed)
    with _told_to_visitors(file):
        whole = read_image(file, max_pixels, formats=_FORMATS)
    return Photo(file.stem, _shown(whole), whole.shape[:2])


def read_words(classes: str, background: str) -> Vocabulary:
    """Classes with commas or line ends between them, ";" between synonyms; likewise the words of a background.

    Raises:
        InputError: no class, an empty synonym, a word given twice, or more words than ``MOST_WORDS``.
    """
    vocabulary = Vocabulary.parse(_split(classes), _split(background), where="Classes")
    if len(vocabulary.prompts) > MOST_WORDS:
        raise InputError(
            "Classes", f"{len(vocabulary.prompts)} words", "Leave some out.", allowed=f"at most {MOST_WORDS}"
        )
    return vocabulary


@contextmanager
def _told_to_visitors(file: Path) -> Iterator[None]:
    """Say what is wrong with a file without saying where on the server it is."""
    try:
        yield
    except InputError as error:
        got = str(error.got).replace(str(file), file.name)
        raise InputError(
            _WHERE, got, "Export it again as one of these.", allowed="a whole JPEG, PNG or WebP file"
        ) from error


def _split(text: str) -> list[str]:
    return [name.strip() for name in re.split(r"[,\n]", text) if name.strip()]


def _shown(pixels: np.ndarray) -> np.ndarray:
    longest = max(pixels.shape[:2])
    if longest <= SHOWN_SIDE:
        return pixels
    height, width = (max(1, round(side * SHOWN_SIDE / longest)) for side in pixels.shape[:2])
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
