"""Bands, bits and range of the values of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cliptrase_d2.data.proposal.inventory import suffix
from cliptrase_d2.data.proposal.samples import sample
from cliptrase_d2.data.rasters import has_rasterio, open_dataset
from cliptrase_d2.data.tiff_header import CMYK, FLOAT, RGB, read_tiff_header
from cliptrase_d2.utils.errors import InputError

_MAX_PICTURES = 8
_SIDE = 512  # pixels of the reduced pictures whose range is taken


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
            found.append(_add_range(read_picture_facts(path), path))
        except InputError:  # the check reports it
            continue
    if not found:
        return PictureFacts()
    most = max(found, key=lambda facts: (facts.bands, facts.bits))
    lows, highs = zip(*((facts.low, facts.high) for facts in found), strict=True)
    low, high = (None if None in values else choose(values) for values, choose in ((lows, min), (highs, max)))
    return PictureFacts(most.bands, most.bits, most.is_float, most.has_colors, low, high)


def _add_range(facts: PictureFacts, path: Path) -> PictureFacts:
    """Return facts with the range of the values, unless they have 8 bits or rasterio is not installed.

    Raises:
        InputError: the file is damaged.
    """
    if (facts.bits == 8 and not facts.is_float) or not has_rasterio():
        return facts
    with open_dataset(path) as file:
        shape = (file.count, min(file.height, _SIDE), min(file.width, _SIDE))
        values = file.read(out_shape=shape, masked=True).compressed()
    values = values[np.isfinite(values)]
    if not values.size:
        return facts
    low, high = np.percentile(values, (1, 99))
    return replace(facts, low=float(low), high=float(high))


def read_picture_facts(path: Path) -> PictureFacts:
    """Read the header of a TIFF file.

    Raises:
        InputError: the file has no valid header.
    """
    header = read_tiff_header(path)
    if header is None:
        raise InputError(path, "no valid header of a TIFF file", "Export it again.")
    has_colors = header.photometric in (RGB, CMYK)
    return PictureFacts(header.colours, header.bits, header.kind == FLOAT, has_colors)
