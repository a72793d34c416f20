"""Reading of photographs."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps, PngImagePlugin, TiffImagePlugin, WebPImagePlugin  # noqa: F401

# Other modules import the limits from here.
from cliptrase_d2.data.limits import MAX_PIXELS as MAX_PIXELS
from cliptrase_d2.data.limits import check_bound as check_bound
from cliptrase_d2.data.limits import check_pixels as check_pixels
from cliptrase_d2.data.rasters import EXTRA, has_rasterio, open_raster, read_raster
from cliptrase_d2.data.rendering import (
    NO_RENDERING,
    RANGE_PIXELS,
    Picture,
    RawRange,
    Rendering,
    choose_bands,
    describe_narrow_range,
    find_range,
    render_values,
    step_between_samples,
)
from cliptrase_d2.data.tiff_header import CMYK, TiffHeader, read_tiff_header
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.user_files import check_readable

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
_BIG_ENDIAN_BIGTIFF = b"MM\0+"  # which Pillow does not read
_ORIENTATION = 0x0112  # tag of EXIF and TIFF
_BIT_DEPTH = 24  # position in a PNG file
_CONVERT = f"Install the reader of such files, {EXTRA}, or convert it: gdal_translate -ot Byte -scale."


class UnsupportedPixelsError(InputError):
    """Pillow does not read this combination of bands, bits and byte order, or reads it wrongly."""


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
        if start.startswith(_BIG_ENDIAN_BIGTIFF):
            raise InputError(path, "a BigTIFF file in big-endian order", "Run gdal_translate -co ENDIANNESS=LITTLE.")
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
        header = read_tiff_header(path)
        got = header.describe() if header else "a TIFF file of unknown pixels"
        raise UnsupportedPixelsError(path, got, _CONVERT, allowed="1, 3 or 4 bands of 8 or 16 bits") from error


def check_planes(image: Image.Image, where: object) -> None:
    """Raise for a TIFF file in separate planes that Pillow would read as noise or inverted."""
    tags = getattr(image, "tag_v2", {})
    if tags.get(_PLANES) == 2 and (max(tags.get(_BITS, (8,))) > 8 or tags.get(_PHOTOMETRIC) == 0):
        got = "a TIFF file in separate planes, with 16 bits per channel or values that count from white to black"
        fix = f"Install the reader of such files, {EXTRA}, or store the channels pixel by pixel: "
        raise UnsupportedPixelsError(where, got, f"{fix}gdal_translate -co INTERLEAVE=PIXEL.")


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


def read_image(
    path: str | Path,
    max_pixels: int = MAX_PIXELS,
    *,
    formats: Sequence[str] = IMAGE_FORMATS,
    rendering: Rendering = NO_RENDERING,
) -> np.ndarray:
    """Return the pixels of ``read_picture``, [H,W,3] uint8 RGB."""
    return read_picture(path, max_pixels, formats=formats, rendering=rendering).pixels


def read_picture(
    path: str | Path,
    max_pixels: int = MAX_PIXELS,
    *,
    formats: Sequence[str] = IMAGE_FORMATS,
    rendering: Rendering = NO_RENDERING,
) -> Picture:
    """Read a photograph or a raster as RGB, rotated as its EXIF orientation says.

    Grey, palette and CMYK images become RGB, 16 bits become 8 and alpha is dropped. If a file has several images, the
    first is read. rasterio, an extra, reads the TIFF files that Pillow does not read, those with a rendering, and the
    nodata of those with a georeference.

    Args:
        path: image file.
        max_pixels: most pixels to decode; 0 for no limit.
        formats: Pillow's names of the accepted formats.
        rendering: of raw values. Formats other than TIFF and 16-bit PNG have the values 0 to 255 in three bands.
    Raises:
        InputError: the file does not exist or is broken, the image is too large, its pixels are not colours, bands must
            be chosen, or rasterio is needed and missing.
    """
    check_readable(path)
    header = read_tiff_header(path) if "TIFF" in formats else None
    if header is not None and (rendering or not header.suits_pillow):
        return _read_with_rasterio(path, header, rendering, max_pixels)
    try:
        with open_image(path, formats) as image:
            check_pixels(image.size, max_pixels, path)
            is_deep = _is_deep(path, image, header)
            if image.format == "PNG":
                verify_png(path)
                if rendering and is_deep:
                    orientation = image.getexif().get(_ORIENTATION, 1)
                    return _turn_upright(read_raster(path, rendering, max_pixels), orientation)
            picture = convert_picture(image, path, max_pixels)
    except UnsupportedPixelsError:
        if header is None or not has_rasterio():
            raise
        return _read_with_rasterio(path, header, rendering, max_pixels)
    if rendering:
        return render_values(picture.pixels.transpose(2, 0, 1), rendering, path)
    if is_deep and picture.raw_range is None:
        picture = replace(picture, raw_range=_find_deep_range(path, picture.pixels))
    if header is not None and header.is_geographic and not header.fault and has_rasterio():
        return _mark_nodata(path, picture, header)
    return picture


def convert_to_rgb(image: Image.Image, where: object, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Return the pixels of ``convert_picture``, [H,W,3] uint8 RGB."""
    return convert_picture(image, where, max_pixels).pixels


def convert_picture(image: Image.Image, where: object, max_pixels: int = MAX_PIXELS) -> Picture:
    """Convert an open image as ``read_picture`` does without a rendering.

    Args:
        image: decoded or not.
        where: the image, for error messages.
        max_pixels: most pixels to decode; 0 for no limit.
    Returns:
        The picture, with the range of its values if they are grey of 16 bits.
    Raises:
        InputError: the image is broken or too large, or its pixels are not colours.
    """
    check_pixels(image.size, max_pixels, where)
    fix = f"Convert the image to 8 or 16 bits per channel, or install the reader of TIFF files of any bits, {EXTRA}."
    with wrap_decoding_errors(where):
        check_planes(image, where)
        image.load()
        from_white = counts_from_white(image)
        full = 2 ** max(getattr(image, "tag_v2", {}).get(_BITS, (16,))) - 1 if image.mode == "I;16" else 65535
        image = ImageOps.exif_transpose(image)
        if image.mode in (*SIXTEEN_BIT_MODES, "I"):
            grey = np.asarray(image).astype(np.int64)  # [H,W]
            if grey.min() < 0 or grey.max() > 65535:
                got = f"32-bit values {grey.min()} to {grey.max()}"
                raise UnsupportedPixelsError(where, got, fix)
            step = step_between_samples(grey.shape[0], grey.shape[1], RANGE_PIXELS)
            raw_range = find_range(grey[::step, ::step], full)
            grey = full - grey if from_white else grey
            pixels = ((grey * 255 + full // 2) // full).astype(np.uint8)
            return Picture(np.repeat(pixels[..., None], 3, axis=2), None, raw_range)  # [H,W,3]
        if image.mode == "F":
            raise UnsupportedPixelsError(where, "floating point pixels", fix)
        if image.mode in ("P", "PA"):
            image = image.convert("RGBA")  # Pillow warns if a palette with transparency is converted to RGB directly
        try:
            return Picture(np.array(image.convert("RGB")))
        except ValueError as error:
            raise InputError(where, f"colour mode {image.mode}", fix) from error


def _read_with_rasterio(path: str | Path, header: TiffHeader, rendering: Rendering, max_pixels: int) -> Picture:
    """Read a TIFF file that Pillow does not read, or with a rendering.

    Raises:
        InputError: as ``read_raster``. Without rasterio, the error describes the bands and bits.
    """
    check_pixels(header.size, max_pixels, path)
    if not has_rasterio():
        choose_bands(rendering.bands, header.colours, header.has_own_colours, (), path)
        raise InputError(path, header.describe(), _CONVERT)
    return _turn_upright(read_raster(path, rendering, max_pixels), header.orientation)


def _mark_nodata(path: str | Path, picture: Picture, header: TiffHeader) -> Picture:
    """Blacken the nodata of a picture that Pillow read from a TIFF file."""
    with open_raster(path) as raster:
        valid = raster.read_valid()
    if valid is None:
        return picture
    valid = _turn(valid.astype(np.uint8), header.orientation) > 0
    return Picture(np.where(valid[..., None], picture.pixels, 0).astype(np.uint8), valid, picture.raw_range)


def _turn_upright(picture: Picture, orientation: int) -> Picture:
    valid = None if picture.valid is None else _turn(picture.valid.astype(np.uint8), orientation) > 0
    return Picture(_turn(picture.pixels, orientation), valid, picture.raw_range)


def _turn(array: np.ndarray, orientation: int) -> np.ndarray:
    """Rotate and mirror [H,W] or [H,W,3] uint8 as an EXIF orientation says."""
    if orientation == 1:
        return array
    image = Image.fromarray(array)
    image.getexif()[_ORIENTATION] = orientation
    return np.array(ImageOps.exif_transpose(image))


def _is_deep(path: str | Path, image: Image.Image, header: TiffHeader | None) -> bool:
    """Return whether the channels of a PNG or TIFF file have 16 bits."""
    if header is not None:
        return header.bits == 16 and header.photometric != CMYK
    if image.format != "PNG":
        return False
    with Path(path).open("rb") as file:
        return file.read(_BIT_DEPTH + 1)[_BIT_DEPTH] == 16


def _find_deep_range(path: str | Path, pixels: np.ndarray) -> RawRange | None:
    """Return the range of the values of a file with 16-bit colours, of which Pillow kept the upper 8 bits."""
    step = step_between_samples(pixels.shape[0], pixels.shape[1], RANGE_PIXELS)
    low, high, _ = find_range(pixels[::step, ::step], 255)
    raw_range = RawRange(256 * low, 256 * high + 255, 65535)
    if describe_narrow_range(raw_range) and has_rasterio():
        with suppress(InputError), open_raster(path) as raster:  # Pillow reads the file, and the bound is good enough
            return raster.raw_range
    return raw_range


def verify_png(path: str | Path) -> None:
    """Verify the checksums of a PNG file. Decoding alone does not verify those of the pixels."""
    with PngImagePlugin.PngImageFile(path) as image:
        image.verify()
