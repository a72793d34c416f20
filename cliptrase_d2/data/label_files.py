"""Reading of label files."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from cliptrase_d2.data.images import (
    MAX_PIXELS,
    SIXTEEN_BIT_MODES,
    UnsupportedPixelsError,
    check_pixels,
    check_planes,
    counts_from_white,
    open_image,
    verify_png,
)
from cliptrase_d2.data.labels import COLORS, INDEX, NO_LABEL, PANOPTIC, LabelRule, pack_colors
from cliptrase_d2.data.rasters import has_rasterio, read_raster_label
from cliptrase_d2.data.tiff_header import read_tiff_header
from cliptrase_d2.utils.errors import InputError, first_line
from cliptrase_d2.utils.user_files import check_readable

LABEL_FORMATS = ("PNG", "TIFF", "BMP")  # lossless
# Pillow stretches grey values of 2 and 4 bits, which PNG optimisers write, to 0..255. "R" means reversed bit order.
_STRETCH = {"L;2": 85, "L;2R": 85, "L;4": 17, "L;4R": 17}
_WHITE_IS_ZERO = ("L;2I", "L;2IR", "L;4I", "L;4IR", "L;I", "L;IR")  # TIFF files whose values Pillow inverts
_LOSSY = ("jpeg", "tiff_jpeg", "webp")  # TIFF compressions
_ONE_CHANNEL, _GREY = ("1", "L", "P", "I", "F", *SIXTEEN_BIT_MODES), ("1", "L")
_SEVERAL_CHANNELS = ("LA", "RGB", "RGBA")
_GDAL_NODATA, _SAMPLE_FORMAT, _SIGNED = 42113, 339, 2  # tags of TIFF, and a value of the second
_NUMPY = b"\x93NUMPY"
_INDICES = "one channel of whole numbers, or the same number in all channels"
# First column, first row, column step and row step of each pass of an interlaced PNG.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def read_label(path: str | Path, max_pixels: int = MAX_PIXELS, rule: LabelRule | None = None) -> np.ndarray:
    """Read the raw values of a label file.

    With the coding "index", these are grey values or palette indices. They may be stored in three equal channels, with
    an opaque alpha channel, or as floating-point numbers.

    Args:
        path: PNG, TIFF, BMP or NumPy file. Its suffix does not matter.
        max_pixels: most pixels to decode; 0 for no limit.
        rule: coding of the values, and the values of classes; None for plain indices.
    Returns:
        [H,W] int32, or int64 where pixels are ``NO_LABEL``, which have the nodata value of a GeoTIFF.
    Raises:
        InputError: the file does not exist, is broken, too large or lossy, or has several images, or its pixels do not
            have this coding.
    """
    return _read(path, rule or LabelRule(0), partial(check_pixels, max_pixels=max_pixels, where=path))


def read_record_label(record: Mapping[str, Any], size: tuple[int, int], rule: LabelRule) -> np.ndarray:
    """Read the label file of a record. It is only decoded if it has the size of the image.

    Args:
        record: ``file_name``, ``sem_seg_file_name``, with the coding "panoptic" ``segments_info``, and, if the file
            has numbers of its own, ``label_indices``, the class index or ignore label of each.
        size: width and height of the image after its EXIF rotation.
        rule: as in ``read_label``.
    Returns:
        As ``read_label``; with the coding "panoptic", the category of each segment; with ``label_indices``, these.
    Raises:
        InputError: as ``read_label``, the sizes differ, or a segment has no category.
    """
    raw = _read(record["sem_seg_file_name"], rule, partial(_compare_sizes, record, size))
    if rule.coding == PANOPTIC:
        return _look_up_categories(raw, record)
    return _look_up_indices(raw, record) if "label_indices" in record else raw


def _compare_sizes(record: Mapping[str, Any], size: tuple[int, int], label: tuple[int, int]) -> None:
    """Raise if a label file does not have the size of its image."""
    if label == size:
        return
    got = f"{label[0]}x{label[1]} pixels, but its image {record['file_name']} has {size[0]}x{size[1]}"
    fix = "Check that the two belong together."
    if label == size[::-1]:
        fix = "Rotate the label file as the EXIF rotation rotates the image."
    raise InputError(record["sem_seg_file_name"], got, fix)


def _read(path: str | Path, rule: LabelRule, check_size: Callable[[tuple[int, int]], None]) -> np.ndarray:
    """Read raw values [H,W] of a file whose size, width and height, passes a check."""
    check_readable(path)
    with Path(path).open("rb") as file:
        is_numpy = file.read(len(_NUMPY)) == _NUMPY
    if is_numpy:
        array = _open_numpy(path)
        check_size((array.shape[1], array.shape[0]))
        return _decode(np.asarray(array), path, rule)
    try:
        with open_image(path, LABEL_FORMATS) as image:
            check_size(image.size)
            _check_encoding(image, path)
            nodata = _get_nodata(image)
            return _decode(_get_pixels(image, path, rule), path, rule, nodata)
    except UnsupportedPixelsError:
        header = read_tiff_header(path)
        if rule.coding != INDEX or header is None or not has_rasterio():
            raise
        check_size(header.size)
        return _read_raster(path, rule)


def _read_raster(path: str | Path, rule: LabelRule) -> np.ndarray:
    """Read a TIFF file that Pillow does not read, such as one of 64 bits: as ``_read_indices``."""
    values, valid, nodata = read_raster_label(path, max_pixels=0)
    is_nodata = _find_nodata(values, path, rule, nodata)
    if nodata is not None and is_nodata is None:  # the value does not occur, or the label map makes it a class
        valid |= values == nodata
    indices = _read_indices(np.where(valid, values, 0), path, rule, None)
    return indices if valid.all() else np.where(valid, indices.astype(np.int64), NO_LABEL)


def _open_numpy(path: str | Path) -> np.ndarray:
    """Return the array of a NumPy file, [H,W] or [H,W,3], whose values are not read yet."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy raises many kinds of error for a damaged file
        fix = "Save the array with numpy.save, without Python objects."
        raise InputError(path, f"an unreadable NumPy file ({first_line(error)})", fix) from error
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[2]):
        array = array[0] if array.shape[0] == 1 else array[..., 0]
    if (array.ndim != 2 and (array.ndim != 3 or array.shape[2] not in (3, 4))) or array.dtype.kind not in "buif":
        got = f"an array of shape {list(array.shape)} and type {array.dtype}"
        raise InputError(path, got, "Save an array [height, width] of whole numbers.")
    return array


def _check_encoding(image: ImageFile.ImageFile, path: str | Path) -> None:
    """Raise for an open image with lossy values, or that Pillow would decode to other values than its file holds."""
    if image.format == "PNG":
        verify_png(path)
        if image.mode in _ONE_CHANNEL:
            _check_png_rows(Path(path).read_bytes())
    check_planes(image, path)
    encoding = _get_encoding(image)
    from_white = encoding in _WHITE_IS_ZERO or counts_from_white(image)
    is_cut = image.mode in _SEVERAL_CHANNELS and "16" in encoding
    has_odd_bits = image.format == "BMP" and encoding not in ("L", "P", "BGR", "BGRX", "BGRA", "1", "P;1", "P;4")
    for is_fault, got, fix in (
        (image.info.get("compression") in _LOSSY, "lossy compression changes labels", "Use LZW or ZIP."),
        (from_white, "grey values count from white to black", "Write 0 as black."),
        (_has_second_image(image), "several images", "Keep only the image with the labels."),
        (is_cut, "several channels of 16 bits, of which only 8 would be read", "Write one channel of 16 bits."),
        (has_odd_bits, f"a BMP file with pixels of the form {encoding}", "Write a PNG file."),
    ):
        if is_fault:
            raise InputError(path, got, fix)


def _get_pixels(image: ImageFile.ImageFile, path: str | Path, rule: LabelRule) -> np.ndarray:
    """Decode an open image: [H,W], or [H,W,C] with an alpha channel in the last of 2 or 4 channels."""
    if image.mode not in (*_ONE_CHANNEL, *_SEVERAL_CHANNELS):
        raise InputError(path, f"labels of mode {image.mode}", "Convert them to class indices.", allowed=_INDICES)
    encoding = _get_encoding(image)
    image.load()
    if rule.coding == INDEX:
        pixels = np.asarray(image)
        if image.mode == "L" and getattr(image, "tag_v2", {}).get(_SAMPLE_FORMAT, (1,))[0] == _SIGNED:
            return pixels.view(np.int8)  # Pillow reads the bits without their sign
        return pixels // _STRETCH[encoding] if encoding in _STRETCH else pixels
    if image.mode == "P":
        return np.asarray(image.convert("RGBA"))  # a palette may have an alpha channel
    return np.asarray(image.convert("RGB") if image.mode in _GREY and rule.coding == COLORS else image)


def _get_nodata(image: Image.Image) -> float | None:
    """Return the value of pixels without data in a GeoTIFF."""
    text = getattr(image, "tag_v2", {}).get(_GDAL_NODATA)
    try:
        return None if text is None else float(str(text).strip("\0 "))
    except ValueError:
        return None


def _decode(pixels: np.ndarray, path: str | Path, rule: LabelRule, nodata: float | None = None) -> np.ndarray:
    """Return the raw values [H,W] of pixels [H,W] or [H,W,C] of numbers."""
    pixels = _drop_alpha(pixels, path)
    if rule.coding == INDEX:
        return _read_indices(pixels, path, rule, nodata)
    if pixels.ndim != 3 or pixels.dtype != np.uint8:
        key = "label_colors" if rule.coding == COLORS else f"the coding {rule.coding}"
        raise InputError(
            path, f"one channel of numbers, but {key} is for colours", "Remove the key, or convert the file."
        )
    red, green = (pixels[..., channel].astype(np.int32) for channel in range(2))
    if rule.coding == COLORS:
        return pack_colors(pixels)
    if rule.coding == PANOPTIC:
        return pack_colors(pixels[..., ::-1])  # R + 256 G + 65536 B
    return red // 10 * 256 + green  # ADE20K: the blue channel numbers the objects


def _drop_alpha(pixels: np.ndarray, path: str | Path) -> np.ndarray:
    """Return pixels [H,W] or [H,W,3] without an alpha channel, which must be opaque everywhere."""
    if pixels.ndim == 2 or pixels.shape[2] == 3:
        return pixels
    opaque = np.iinfo(pixels.dtype).max if pixels.dtype.kind in "iu" else 1
    if (pixels[..., -1] != opaque).any():
        share = (pixels[..., -1] != opaque).mean()
        fix = "Fill these pixels with the ignore label, and write the file without alpha."
        raise InputError(path, f"transparent pixels ({share:.1%} of all)", fix)
    return pixels[..., 0] if pixels.shape[2] == 2 else pixels[..., :3]


def _read_indices(pixels: np.ndarray, path: str | Path, rule: LabelRule, nodata: float | None) -> np.ndarray:
    """Return whole numbers [H,W] as int32; int64 with ``NO_LABEL`` where pixels have the nodata value."""
    if pixels.ndim == 3:
        if (pixels != pixels[..., :1]).any():
            fix = "Set label_colors if they mean classes. If this is a photograph, check the folder of the labels."
            raise InputError(path, "labels in colours", fix, allowed=_INDICES)
        pixels = pixels[..., 0]
    unlabelled = _find_nodata(pixels, path, rule, nodata)
    known = pixels if unlabelled is None else np.where(unlabelled, 0, pixels)
    if pixels.dtype.kind == "f" and not np.array_equal(known, np.rint(known)):  # NaN is unequal to itself
        example = known[known != np.rint(known)][0]
        raise InputError(path, f"labels such as {example}", "Write whole numbers.", allowed=_INDICES)
    if known.size and not -(2**31) <= known.min() <= known.max() < 2**31:
        raise InputError(path, f"labels from {known.min()} to {known.max()}", "Write at most 32 bits.")
    values = known.astype(np.int32)
    return values if unlabelled is None else np.where(unlabelled, NO_LABEL, values.astype(np.int64))


def _find_nodata(pixels: np.ndarray, path: str | Path, rule: LabelRule, nodata: float | None) -> np.ndarray | None:
    """Return where pixels have the nodata value, [H,W] bool; None for nowhere.

    Raises:
        InputError: the value is also the index of a class, and no label map says which of the two it means.
    """
    if nodata is None:
        return None
    found = np.isnan(pixels) if np.isnan(nodata) else pixels == nodata
    if not found.any():
        return None
    if nodata == nodata and rule.means_class(int(nodata)):
        if rule.label_map is not None:
            return None
        value, ignored = int(nodata), rule.ignore_label
        got = f"the nodata value {value}, which is also the index of a class"
        raise InputError(path, got, f"Say in label_map which is meant, {{{value}: {value}}} or {{{value}: {ignored}}}.")
    return found


def _look_up_categories(ids: np.ndarray, record: Mapping[str, Any]) -> np.ndarray:
    """Return the categories [H,W] int64 of segment ids [H,W]; ``NO_LABEL`` for the id 0, which is void."""
    categories = {segment["id"]: segment["category_id"] for segment in record["segments_info"]}
    distinct, positions = np.unique(ids, return_inverse=True)
    if unknown := [int(value) for value in distinct if value and int(value) not in categories]:
        got = f"{len(unknown)} segments without an entry in the JSON, such as {unknown[0]}"
        raise InputError(record["sem_seg_file_name"], got, "Check that the PNG and JSON files belong together.")
    table = np.array([categories.get(int(value), NO_LABEL) for value in distinct], dtype=np.int64)
    return table[positions].reshape(ids.shape)  # [H,W]


def _look_up_indices(raw: np.ndarray, record: Mapping[str, Any]) -> np.ndarray:
    """Return the class indices [H,W] of values [H,W] that are numbers of this file."""
    table = np.array(record["label_indices"], dtype=np.int32)
    if (unknown := raw[(raw < 0) | (raw >= len(table))]).size:
        got = f"the value {unknown[0]}, but label_names.txt in its folder has {len(table)} names"
        raise InputError(record["sem_seg_file_name"], got, "Export the labels again.")
    return table[raw]


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
