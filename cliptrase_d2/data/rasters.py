"""Reading of rasters of any bands and depth, and writing of georeferenced label maps, with rasterio (GDAL).

rasterio is an extra, imported on first use.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from cliptrase_d2.data.limits import MAX_PIXELS, check_pixels
from cliptrase_d2.data.rendering import (
    NO_RENDERING,
    Picture,
    RawRange,
    Rendering,
    choose_bands,
    compose,
    find_range,
    needs_stretch,
    reduce_depth,
    step_between_samples,
    stretch_values,
)
from cliptrase_d2.data.tiff_header import read_tiff_header
from cliptrase_d2.unknown import UNKNOWN
from cliptrase_d2.utils.atomic_files import atomic_path
from cliptrase_d2.utils.errors import InputError, WriteError
from cliptrase_d2.utils.user_files import check_readable

EXTRA = "pip install 'cliptrase_d2[geo]'"
_PNG = b"\x89PNG"
# A small cache in MB, since blocks are read from top to bottom. A file beside an image, such as its mask, must not open
# addresses in a network.
_ENVIRONMENT = {"GDAL_CACHEMAX": 256, "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": ".none"}
_ROWS_OF_PIXELS = 2**22  # pixels that are converted at a time
_BLOCK = 256  # side of the blocks of label maps
_LOSSY = ("JPEG", "WEBP", "LERC", "JXL")
_EXACT_FLOAT = 2.0**53  # largest whole number that floats count without gaps


def has_rasterio() -> bool:
    """Return whether rasterio is installed."""
    return find_spec("rasterio") is not None


class Raster:
    """An open raster whose pixels are read row by row.

    Args:
        dataset: of rasterio.
        where: the file, for error messages.
        rendering: of its values.
    Attributes:
        size: (height, width).
        bands: numbers of the bands that are read.
    Raises:
        InputError: bands that must be chosen or do not exist, or complex numbers.
    """

    def __init__(self, dataset: Any, where: object, rendering: Rendering):
        self.dataset, self.where, self.rendering = dataset, where, rendering
        self.size = (dataset.height, dataset.width)
        colours = [colour.name for colour in dataset.colorinterp]
        self._alpha = colours.index("alpha") + 1 if "alpha" in colours else 0
        if self._alpha in rendering.bands:  # GDAL takes the fourth of four 8-bit bands for alpha
            self._alpha = 0
        names = [name or "" for name in dataset.descriptions]
        count = len(colours) - (self._alpha == len(colours))  # alpha is the last band
        has_own = count == 4 and colours[:3] == ["red", "green", "blue"]
        self.bands = choose_bands(rendering.bands, count, has_own, names, where)
        self._full = _get_full_scale(dataset, self.bands)
        self._is_inverted = dataset.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES"
        self._kind = dataset.dtypes[self.bands[0] - 1]
        if self._kind.startswith("complex"):
            raise InputError(where, "complex numbers", "Convert them, for example to their magnitude.")

    def read(self, rows: slice | None = None) -> Picture:
        """Read rows of the image, all by default.

        Raises:
            InputError: the file is damaged, or the values need a stretch.
        """
        rows = rows or slice(0, self.size[0])
        pixels = np.empty((len(self.bands), rows.stop - rows.start, self.size[1]), np.uint8)
        valid = np.empty(pixels.shape, bool)
        for part in self._divide(rows):
            values, is_valid = self._read_values(part)
            target = slice(part.start - rows.start, part.stop - rows.start)
            pixels[:, target], valid[:, target] = self._render(values), is_valid
        return compose(255 - pixels if self._is_inverted else pixels, valid)

    def read_valid(self) -> np.ndarray | None:
        """Return which pixels are not nodata, [H,W] bool; None if all are."""
        if not (self._has_masks or self._alpha or np.dtype(self._kind).kind == "f"):
            return None
        valid = np.concatenate(
            [self._read_values(part)[1].any(axis=0) for part in self._divide(slice(0, self.size[0]))]
        )
        return None if valid.all() else valid

    @cached_property
    def raw_range(self) -> RawRange | None:
        """The range of the values; None for 8 bits, and with a stretch."""
        is_wide = self._full is not None and self._full > 255
        return find_range(self._sample, self._full or 0) if is_wide and not self.rendering.stretch else None

    @cached_property
    def _limits(self) -> tuple[float, float] | None:
        """The values that become 0 and 255; None for the full scale of the type."""
        if self.rendering.stretch:
            return self.rendering.get_limits(self._sample)
        if self._full is None:
            raise needs_stretch(self.where, self._kind, self._sample)
        return None

    @cached_property
    def _sample(self) -> np.ndarray:
        """Valid values of evenly spaced pixels."""
        step = step_between_samples(*self.size)
        parts = []
        for rows in self._divide(slice(0, self.size[0])):
            values, valid = self._read_values(rows)
            first = -rows.start % step
            parts.append(values[:, first::step, ::step][valid[:, first::step, ::step]])
        return np.concatenate(parts)

    @cached_property
    def _has_masks(self) -> bool:
        """Whether there is a nodata value or a mask besides alpha, which is read as a band."""
        flags = [{flag.name for flag in self.dataset.mask_flag_enums[band - 1]} for band in self.bands]
        return any(not names & {"all_valid", "alpha"} for names in flags)

    def _divide(self, rows: slice) -> Iterator[slice]:
        step = max(1, _ROWS_OF_PIXELS // self.size[1])
        for start in range(rows.start, rows.stop, step):
            yield slice(start, min(start + step, rows.stop))

    def _read_values(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """Return raw values [B,n,W], 0 for nodata, and which are valid, [B,n,W] bool."""
        window = ((rows.start, rows.stop), (0, self.size[1]))
        values = self.dataset.read(self.bands, window=window)
        valid = np.isfinite(values)
        if self._has_masks:
            valid &= self.dataset.read_masks(self.bands, window=window) > 0
        if self._alpha:
            valid &= self.dataset.read(self._alpha, window=window) > 0
        return np.where(valid, values, 0).astype(values.dtype), valid

    def _render(self, values: np.ndarray) -> np.ndarray:
        limits = self._limits
        return reduce_depth(values, self._full or 255) if limits is None else stretch_values(values, limits)


@contextmanager
def open_raster(path: str | Path, rendering: Rendering = NO_RENDERING) -> Iterator[Raster]:
    """Open a TIFF or PNG file with rasterio. Errors of GDAL in the ``with`` block become `InputError`.

    Args:
        path: of the file.
        rendering: of its values.
    Raises:
        InputError: rasterio is missing, the file is damaged or of another format, it has a palette or CMYK, or as
            ``Raster``.
    """
    with open_dataset(path) as dataset:
        header = read_tiff_header(path)
        if header is not None and header.fault:
            raise InputError(path, f"{header.fault}, not brightness", "Convert the image to RGB or grey.")
        yield Raster(dataset, path, rendering)


def read_raster(path: str | Path, rendering: Rendering = NO_RENDERING, max_pixels: int = MAX_PIXELS) -> Picture:
    """Read a TIFF or PNG file of any bands and depth, without its EXIF orientation.

    Args:
        path: of the file.
        rendering: of its values.
        max_pixels: most pixels to decode; 0 for no limit.
    Raises:
        InputError: as ``open_raster``, the image is too large, or its values need a stretch.
    """
    with open_raster(path, rendering) as raster:
        check_pixels(raster.size[::-1], max_pixels, path)
        picture = raster.read()
        return Picture(picture.pixels, picture.valid, raster.raw_range)


def read_raster_label(path: str | Path, max_pixels: int = MAX_PIXELS) -> tuple[np.ndarray, np.ndarray, float | None]:
    """Read the raw values of a label file of integers, or of floating point numbers that are whole.

    Args:
        path: TIFF or PNG file with one band.
        max_pixels: most pixels to decode; 0 for no limit.
    Returns:
        [H,W] int64, 0 for NaN; [H,W] bool, False for nodata, which are the file's nodata value, NaN, and its mask; and
        the nodata value, None without one.
    Raises:
        InputError: rasterio is missing, or the file is damaged, too large or lossy, has several bands or images, or
            values that are not whole.
    """
    with open_dataset(path) as dataset:
        check_pixels((dataset.width, dataset.height), max_pixels, path)
        structure = dataset.tags(ns="IMAGE_STRUCTURE")
        for is_fault, got, fix in (
            (dataset.count != 1, f"labels of {dataset.count} bands", "Keep only the band with the class indices."),
            (_is_lossy(structure), "lossy compression changes labels", "Use LZW or ZIP."),
            (structure.get("MINISWHITE") == "YES", "grey values count from white to black", "Write 0 as black."),
            (len(dataset.subdatasets) > 1, "several images", "Keep only the image with the labels."),
            (dataset.dtypes[0].startswith("complex"), "complex numbers", "Write class indices."),
        ):
            if is_fault:
                raise InputError(path, got, fix)
        values = dataset.read(1)
        finite, nodata = np.isfinite(values), dataset.nodata
        valid = finite & (dataset.read_masks(1) > 0)
    known = values[valid]
    largest = _EXACT_FLOAT if values.dtype.kind == "f" else float(2**63 - 1024)
    fault = known[(known != np.rint(known)) | (abs(known.astype(np.float64)) > largest)]
    if fault.size:
        raise InputError(path, f"the label value {fault[0]}", "Write class indices.", allowed="whole numbers")
    return np.where(finite, values, 0).astype(np.int64), valid, nodata


def read_georeference(path: str | Path, size: tuple[int, int]) -> dict[str, Any]:
    """Return the coordinate system and the transformation of a TIFF file; empty if it has none or another size.

    Args:
        path: of any file.
        size: (height, width) of the pixels that the georeference is wanted for.
    Raises:
        InputError: as ``open_raster``.
    """
    with open_dataset(path) as dataset:
        if (dataset.height, dataset.width) != size or (dataset.crs is None and dataset.transform.is_identity):
            return {}
        return {"crs": dataset.crs, "transform": dataset.transform}


@contextmanager
def open_label_raster(
    path: Path,
    size: tuple[int, int],
    classes: Sequence[str],
    colours: np.ndarray,
    georeference: Mapping[str, Any],
) -> Iterator[Callable[[int, np.ndarray], None]]:
    """Create a GeoTIFF of class indices, tiled and compressed, which appears when it is complete.

    It has the nodata value 255, or 65535 with more than 255 classes, for unknown pixels, a table of colours, and the
    names of the classes as metadata: CLASS_0, CLASS_1, …

    Args:
        path: of the file.
        size: (height, width).
        classes: C names.
        colours: [C,3] uint8 RGB of the classes.
        georeference: as ``read_georeference`` returned it.
    Yields:
        A function that writes rows: the first row and class indices [n,W], -1 for unknown.
    Raises:
        InputError: rasterio is missing, or the file cannot be written.
    """
    rasterio, kind = import_rasterio(path), np.uint8 if len(classes) <= 255 else np.uint16
    nodata = np.iinfo(kind).max
    options = {"driver": "GTiff", "height": size[0], "width": size[1], "count": 1, "dtype": kind, "nodata": nodata}
    options |= {"tiled": True, "blockxsize": _BLOCK, "blockysize": _BLOCK, "compress": "deflate", "BIGTIFF": "IF_SAFER"}
    with (
        atomic_path(path) as unfinished,
        _wrap_errors(partial(_describe_writing_error, path)),
        rasterio.Env(**_ENVIRONMENT),
        rasterio.open(unfinished, "w", **options, **georeference) as dataset,
    ):
        dataset.update_tags(**{f"CLASS_{index}": name for index, name in enumerate(classes)})
        if kind is np.uint8:
            dataset.write_colormap(1, {index: (*colour, 255) for index, colour in enumerate(colours.tolist())})

        def write(first: int, labels: np.ndarray) -> None:
            values = np.where(labels == UNKNOWN, nodata, labels).astype(kind)
            dataset.write(values, 1, window=((first, first + len(labels)), (0, size[1])))

        yield write


@contextmanager
def open_dataset(path: str | Path) -> Iterator[Any]:
    """Open a TIFF or PNG file as a dataset of rasterio. Errors of GDAL in the ``with`` block become `InputError`.

    Raises:
        InputError: rasterio is missing, or the file is damaged or of another format.
    """
    check_readable(path)
    rasterio = import_rasterio(path)
    # An absolute path: GDAL would read a name such as GTIFF_DIR:1:a.tif as a command.
    with Path(path).open("rb") as file:
        driver = "PNG" if file.read(4) == _PNG else "GTiff"  # no other, since some read further files or addresses
    with (
        _wrap_errors(partial(_describe_reading_error, path)),
        rasterio.Env(**_ENVIRONMENT),
        rasterio.open(os.path.abspath(path), driver=driver) as dataset,
    ):
        yield dataset


def import_rasterio(where: object) -> Any:
    """Import rasterio.

    Raises:
        InputError: it is not installed.
    """
    try:
        import rasterio
        import rasterio.errors
    except ImportError as error:
        raise InputError(where, f"rasterio cannot be imported ({error})", f"Install it: {EXTRA}") from error
    warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)  # of ordinary images
    return rasterio


@contextmanager
def _wrap_errors(describe: Callable[[Exception], InputError]) -> Iterator[None]:
    """Turn the errors that GDAL and NumPy raise on invalid data, or on a full disk, into `InputError`."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if not _is_of_gdal(error):
            raise
        raise describe(error) from error


def _describe_reading_error(path: object, error: Exception) -> InputError:
    got = f"unreadable ({' '.join(str(error).split())[:200]})"
    return InputError(path, got, "Download or export the file again, or remove it.")


def _describe_writing_error(path: object, error: Exception) -> InputError:
    return WriteError(path, f"cannot be written ({error})", "Free some space or choose another place.")


def _is_of_gdal(error: Exception) -> bool:
    """Return whether an error is one of rasterio, of GDAL below it, or of an absurd size in a header."""
    return type(error).__module__.startswith("rasterio") or isinstance(error, MemoryError)


def _is_lossy(structure: Mapping[str, str]) -> bool:
    if structure.get("COMPRESSION_REVERSIBILITY", "").startswith("LOSSLESS"):
        return False
    return any(name in structure.get("COMPRESSION", "").upper() for name in _LOSSY)


def _get_full_scale(dataset: Any, bands: Sequence[int]) -> int | None:
    """Return the largest value of a type of at most 16 unsigned bits; None for other types."""
    kinds = {dataset.dtypes[band - 1] for band in bands}
    if not kinds <= {"uint8", "uint16"}:
        return None
    kind = max(kinds, key=len)
    bits = dataset.tags(bands[0], ns="IMAGE_STRUCTURE").get("NBITS")
    return 2 ** int(bits) - 1 if bits else int(np.iinfo(kind).max)
