"""Bands, bits and range of the values of pictures."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import TiffImagePlugin

from cliptrase_d2.data.proposal.inventory import suffix
from cliptrase_d2.data.proposal.samples import sample
from cliptrase_d2.utils.errors import InputError

_MAX_PICTURES = 8
_SIDE = 512  # pixels of the reduced pictures whose range is taken
_BITS, _PHOTOMETRIC, _BANDS, _EXTRA, _FORMAT = 258, 262, 277, 338, 339  # tags of TIFF
_FLOAT, _COLORS = 3, (2, 5)  # format; photometric RGB and CMYK


@dataclass(frozen=True)
class PictureFacts:
    """Bands of a picture, or of a sample of pictures.

    Attributes:
        bands: without alpha.
        bits: of each band.
        is_float: whether the values are floating point.
        has_colors: whether the header says that the bands are colours.
        low, high: range of 98 % of the values; None if no reader for it is installed.
    """

    bands: int = 3
    bits: int = 8
    is_float: bool = False
    has_colors: bool = True
    low: float | None = None
    high: float | None = None


def needs_bands(facts: PictureFacts) -> bool:
    """Return whether the bands that are red, green and blue must be chosen."""
    return facts.bands not in (1, 3) and not (facts.has_colors and facts.bands == 4)


def look_at_pictures(paths: Sequence[Path]) -> PictureFacts:
    """Return the bands, bits and values of a few pictures: those of the one with the most bands and bits."""
    found = []
    for path in sample([path for path in paths if suffix(path.name) in (".tif", ".tiff")], _MAX_PICTURES):
        try:
            found.append(_add_range(read_tiff_tags(path), path))
        except InputError:  # the check reports it
            continue
    if not found:
        return PictureFacts()
    most = max(found, key=lambda facts: (facts.bands, facts.bits))
    lows, highs = zip(*((facts.low, facts.high) for facts in found), strict=True)
    low, high = (None if None in values else choose(values) for values, choose in ((lows, min), (highs, max)))
    return PictureFacts(most.bands, most.bits, most.is_float, most.has_colors, low, high)


def _add_range(facts: PictureFacts, path: Path) -> PictureFacts:
    """Return facts with the range of the values, unless they have 8 bits or no reader is installed.

    Raises:
        InputError: the file is damaged.
    """
    if facts.bits == 8 and not facts.is_float:
        return facts
    try:
        rasterio: Any = import_module("rasterio")  # optional
    except ImportError:
        return facts
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a file without coordinates
            with rasterio.open(path) as file:
                shape = (file.count, min(file.height, _SIDE), min(file.width, _SIDE))
                values = file.read(out_shape=shape, masked=True).compressed()
    except rasterio.errors.RasterioError as error:
        raise InputError(path, f"unreadable ({error})", "Export it again.") from error
    values = values[np.isfinite(values)]
    if not values.size:
        return facts
    low, high = np.percentile(values, (1, 99))
    return PictureFacts(facts.bands, facts.bits, facts.is_float, facts.has_colors, float(low), float(high))


def read_tiff_tags(path: Path) -> PictureFacts:
    """Read the header of a TIFF file.

    Raises:
        InputError: the file has no valid header.
    """
    try:
        with path.open("rb") as file:
            header = file.read(8)
            if b"+" in header[2:4]:  # BigTIFF
                header += file.read(8)
            tags = TiffImagePlugin.ImageFileDirectory_v2(header)
            file.seek(tags.next)
            tags.load(file)
            bands, bits = int(tags.get(_BANDS, 1)), int(max(tags.get(_BITS, (1,))))
            alphas = sum(extra in (1, 2) for extra in tags.get(_EXTRA, ()))
            is_float = _FLOAT in tags.get(_FORMAT, (1,))
            return PictureFacts(bands - alphas, bits, is_float, tags.get(_PHOTOMETRIC) in _COLORS)
    except Exception as error:  # Pillow raises many kinds of error for damaged tags
        raise InputError(path, f"unreadable ({type(error).__name__}: {error})", "Export it again.") from error
