"""Reading of photographs."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps, PngImagePlugin, TiffImagePlugin, WebPImagePlugin  # noqa: F401

from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.user_files import check_readable

# Enough for cameras of 100 megapixels. Each reading process then needs 0.4 GB for the colours and 1 GB to count the
# labels. Most machines could not spare twice as much for each process.
MAX_PIXELS = 2**27
# Formats of photographs. Pillow reads many more, some of which run programs (EPS) or trust any header. The MPO files of
# phones are opened as JPEG.
IMAGE_FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "PPM")

Image.preinit()  # registers the formats whose plugins are not imported above

# Errors that Pillow's plugins raise on invalid data.
_DECODING_ERRORS = (
    *(OSError, SyntaxError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, MemoryError),
    *(struct.error, zlib.error, EOFError, AssertionError, RuntimeError),
    Image.DecompressionBombError,  # a GIF whose first frame is larger than the image
)
SIXTEEN_BIT_MODES = ("I;16", "I;16B", "I;16L")
_PHOTOMETRIC, _PLANES, _BITS = 262, 284, 258  # tags of TIFF


def check_bound(max_pixels: int) -> int:
    """Return a limit for ``check_pixels`` unchanged.

    Raises:
        InputError: the limit is negative.
    """
    if max_pixels < 0:
        raise InputError("max_pixels", max_pixels, "Change it.", allowed="a number of pixels, or 0 for no limit")
    return max_pixels


def check_pixels(size: tuple[int, int], max_pixels: int, where: object) -> None:
    """Raise if an image is too large to decode, or empty.

    Args:
        size: width and height from the header.
        max_pixels: most pixels to decode; 0 for no limit.
        where: the image, for error messages.
    Raises:
        InputError: the image has more pixels, or none.
    """
    width, height = size
    if width < 1 or height < 1:
        raise InputError(where, f"{width} x {height} pixels", "Export the image again.", allowed="at least one pixel")
    if 0 < max_pixels < width * height:
        got = f"{width:,} x {height:,} = {width * height:,} pixels"
        fix = "Make the image smaller, or raise INPUT.MAX_PIXELS (0 for no limit) if you trust its source."
        raise InputError(where, got, fix, allowed=f"at most {max_pixels:,} pixels")


@contextmanager
def open_image(path: str | Path, formats: Sequence[str] = IMAGE_FORMATS) -> Iterator[ImageFile.ImageFile]:
    """Open an image file and read its header. Decoding errors inside the ``with`` block become `InputError` too.

    ``Image.open`` is not used: its pixel limit holds for the whole process, and it warns.

    Args:
        path: image file.
        formats: Pillow's names of the accepted formats.
    Raises:
        InputError: the file does not exist, has another format or is broken.
    """
    check_readable(path)
    with wrap_decoding_errors(path), Path(path).open("rb") as file:
        start = file.read(16)
        file.seek(0)
        for name in formats:
            factory, accept = Image.OPEN[name]
            if accept is None or accept(start) is True:
                with _explain_pixel_mode(path):
                    opened = factory(file, str(path))
                with opened as image:
                    yield image
                return
        fix = "Convert it to one of these formats, or remove it."
        raise InputError(path, "unreadable (unsupported format)", fix, allowed=", ".join(formats))


@contextmanager
def _explain_pixel_mode(path: str | Path) -> Iterator[None]:
    """Describe TIFF files with a combination of bands, bits and byte order that Pillow does not know."""
    try:
        yield
    except SyntaxError as error:
        if "unknown pixel mode" not in str(error):
            raise
        got = "a TIFF file whose bands, bits per band or byte order are not supported"
        fix = "Convert it, for example with gdal_translate -ot Byte -b 1 -b 2 -b 3."
        raise InputError(path, got, fix, allowed="1, 3 or 4 bands of 8 or 16 bits") from error


def check_planes(image: Image.Image, where: object) -> None:
    """Raise for a TIFF file in separate planes that Pillow would read as noise or inverted."""
    tags = getattr(image, "tag_v2", {})
    if tags.get(_PLANES) == 2 and (max(tags.get(_BITS, (8,))) > 8 or tags.get(_PHOTOMETRIC) == 0):
        got = "a TIFF file in separate planes, with 16 bits per channel or values that count from white to black"
        fix = "Store the channels pixel by pixel, for example with gdal_translate -co INTERLEAVE=PIXEL."
        raise InputError(where, got, fix)


def counts_from_white(image: Image.Image) -> bool:
    """Return whether 0 is white in a TIFF file of 16-bit grey values. Pillow inverts only those of 8 bits."""
    return image.mode in SIXTEEN_BIT_MODES and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0


@contextmanager
def wrap_decoding_errors(where: object) -> Iterator[None]:
    """Turn the errors that Pillow raises on invalid data into `InputError`."""
    try:
        yield
    except InputError:  # a ValueError, too
        raise
    except _DECODING_ERRORS as error:
        got = f"unreadable ({type(error).__name__}: {error})"
        raise InputError(where, got, "Download or export the file again, or remove it.") from error


def read_image(path: str | Path, max_pixels: int = MAX_PIXELS, *, formats: Sequence[str] = IMAGE_FORMATS) -> np.ndarray:
    """Read a photograph as RGB, rotated as its EXIF orientation says.

    Grey, palette and CMYK images become RGB, 16 bits become 8 and alpha is dropped. If a file has several images, the
    first is read.

    Args:
        path: image file.
        max_pixels: most pixels to decode; 0 for no limit.
        formats: Pillow's names of the accepted formats.
    Returns:
        [H,W,3] uint8 RGB.
    Raises:
        InputError: the file does not exist or is broken, the image is too large, or its pixels are not colours.
    """
    with open_image(path, formats) as image:
        check_pixels(image.size, max_pixels, path)
        if image.format == "PNG":
            verify_png(path)
        return convert_to_rgb(image, path, max_pixels)


def convert_to_rgb(image: Image.Image, where: object, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Convert an open image as ``read_image`` does.

    Args:
        image: decoded or not.
        where: the image, for error messages.
        max_pixels: most pixels to decode; 0 for no limit.
    Returns:
        [H,W,3] uint8 RGB.
    Raises:
        InputError: the image is broken or too large, or its pixels are not colours.
    """
    check_pixels(image.size, max_pixels, where)
    fix = "Convert the image to 8 or 16 bits per channel, grey or colour, for example as PNG."
    with wrap_decoding_errors(where):
        check_planes(image, where)
        image.load()
        from_white = counts_from_white(image)
        image = ImageOps.exif_transpose(image)
        if image.mode in (*SIXTEEN_BIT_MODES, "I"):
            grey = np.asarray(image).astype(np.int64)  # [H,W]
            if grey.min() < 0 or grey.max() > 65535:
                raise InputError(where, "32 bits per pixel", fix)
            grey = 65535 - grey if from_white else grey
            return np.repeat(((grey * 255 + 32767) // 65535).astype(np.uint8)[..., None], 3, axis=2)  # [H,W,3]
        if image.mode == "F":
            raise InputError(where, "floating point pixels", fix)
        if image.mode in ("P", "PA"):
            image = image.convert("RGBA")  # Pillow warns if a palette with transparency is converted to RGB directly
        try:
            return np.array(image.convert("RGB"))
        except ValueError as error:
            raise InputError(where, f"colour mode {image.mode}", fix) from error


def verify_png(path: str | Path) -> None:
    """Verify the checksums of a PNG file. Decoding alone does not verify those of the pixels."""
    with PngImagePlugin.PngImageFile(path) as image:
        image.verify()
