"""Opens image files of chosen formats, looks at what their headers say, and explains what is wrong with them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageFile, TiffImagePlugin, WebPImagePlugin  # noqa: F401  the last two register themselves

from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.user_files import fault_of

# Covers cameras of 100 megapixels. Its colours are 0.4 GB and its labels, while they are counted, 1 GB for every
# reading process; the next power of two would be more than most machines have for each.
MAX_PIXELS = 2**27
# Of photographs. Pillow knows many more, some of which run programs (EPS) or believe whatever a header says. What
# phones write as MPO opens as JPEG.
IMAGE_FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "PPM")
# Of labels: those that keep every number.
LABEL_FORMATS = ("PNG", "TIFF")

Image.preinit()  # registers the others

# What Pillow raises, by format, on data that breaks its rules.
_BROKEN = (
    *(OSError, SyntaxError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, MemoryError),
    *(struct.error, zlib.error, EOFError, AssertionError, RuntimeError),
    Image.DecompressionBombError,  # of a GIF whose first frame is larger than the picture that it belongs to
)


def check_bound(max_pixels: int) -> int:
    """A bound on pixels, as ``check_pixels`` takes it.

    Raises:
        InputError: one below 0.
    """
    if max_pixels < 0:
        raise InputError("INPUT.MAX_PIXELS", max_pixels, "Change it.", allowed="a number of pixels, or 0 for no bound")
    return max_pixels


def check_pixels(size: tuple[int, int], max_pixels: int, where: object) -> None:
    """Refuse an image before it is decoded.

    Args:
        size: width and height, as the header has them.
        max_pixels: most that are decoded; 0 for no bound.
        where: the image, for the message.
    Raises:
        InputError: more pixels, or none.
    """
    width, height = size
    if width < 1 or height < 1:
        raise InputError(where, f"{width} x {height} pixels", "Export the image again.", allowed="at least one pixel")
    if 0 < max_pixels < width * height:
        got = f"{width:,} x {height:,} = {width * height:,} pixels"
        fix = "Make the image smaller, or raise INPUT.MAX_PIXELS (0: no bound) where you trust it."
        raise InputError(where, got, fix, allowed=f"at most {max_pixels:,} pixels")


@contextmanager
def opened(path: str | Path, formats: Sequence[str] = IMAGE_FORMATS) -> Iterator[ImageFile.ImageFile]:
    """An image file whose header has been read; to decode it is up to the block, whose errors are explained too.

    Pillow's ``Image.open`` would add a bound of its own, which is one for the whole process and warns besides.

    Args:
        path: of the file.
        formats: Pillow's names of those that are tried.
    Raises:
        InputError: a file that is missing, in none of the formats, or broken.
    """
    fault = fault_of(path)
    if fault:
        raise InputError(path, fault, "Check the path.", allowed="an existing image")
    with explained(path), Path(path).open("rb") as file, _recognised(file, path, formats) as image:
        yield image


def _recognised(file: BinaryIO, path: str | Path, formats: Sequence[str]) -> ImageFile.ImageFile:
    start = file.read(16)
    for name in formats:
        factory, accept = Image.OPEN[name]
        if accept is None or accept(start) is True:
            file.seek(0)
            return factory(file, str(path))
    fix = "Export it as one of these, or remove it."
    raise InputError(
        path, "unreadable (another kind of file)", fix, allowed=f"a whole image file: {', '.join(formats)}"
    )


@contextmanager
def explained(where: object) -> Iterator[None]:
    """Say of whatever Pillow raises while it decodes what the user can do about it."""
    try:
        yield
    except InputError:  # which is a ValueError
        raise
    except _BROKEN as error:
        raise InputError(
            where,
            f"unreadable ({type(error).__name__}: {error})",
            "Fetch or export the file again, or remove it.",
            allowed="a whole image file that Pillow can open",
        ) from error
