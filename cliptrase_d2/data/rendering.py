"""Rendering: raw values of any bands and depth become 8-bit RGB."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import numpy as np

from cliptrase_d2.utils.errors import InputError

Limit = float | str  # a raw value, or a percentile such as "2%"
SAMPLED_PIXELS = 2**22  # of an image, for percentiles
RANGE_PIXELS = 2**18  # of an image, for the range in a warning
_NARROW = 4  # values below a quarter of the full scale are nearly black
_COMMON_PERCENTILES = (0.1, 99.9)  # single hot or dead pixels do not count


def _parse_bands(bands: Sequence[int]) -> tuple[int, ...]:
    is_list = isinstance(bands, Sequence) and not isinstance(bands, str)
    if not is_list or len(bands) not in (0, 1, 3) or not all(_is_whole(band) and band >= 1 for band in bands):
        allowed = "three numbers for red, green and blue, or one for grey; 1 is the first band"
        raise InputError("bands", repr(bands), "Write, for example, [4, 3, 2].", allowed=allowed)
    return tuple(bands)


def _parse_stretch(stretch: Sequence[Limit]) -> tuple[Limit, ...]:
    is_list = isinstance(stretch, Sequence) and not isinstance(stretch, str)
    limits = tuple(map(_parse_limit, stretch)) if is_list else (None,)
    shares = [_get_percentile(limit) for limit in limits if limit is not None]
    is_ordered = len(shares) != 2 or None in shares or shares[0] < shares[1]  # type: ignore[operator]
    if len(limits) == 2 and shares == [None, None]:
        is_ordered = limits[0] < limits[1]  # type: ignore[operator]
    if None in limits or len(limits) not in (0, 2) or not is_ordered:
        allowed = "two raw values such as [0, 3000], or percentiles such as [2%, 98%], the lower one first"
        raise InputError("stretch", repr(stretch), "Give the values that become black and white.", allowed=allowed)
    return limits  # type: ignore[return-value]  # None is refused above


def _parse_limit(limit: object) -> Limit | None:
    """Return a raw value or a percentile; None for anything else."""
    text = str(limit).strip()
    try:
        number = float(text.removesuffix("%"))
    except ValueError:
        return None
    if isinstance(limit, bool) or not math.isfinite(number):
        return None
    if text.endswith("%"):
        return text if 0 <= number <= 100 else None
    return number


def _get_percentile(limit: Limit) -> float | None:
    """Return the percentile of a limit in percent; None for a raw value."""
    return float(limit.removesuffix("%")) if isinstance(limit, str) else None


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True)
class Rendering:
    """How raw values become colours.

    Attributes:
        bands: numbers of the bands for red, green and blue, counted from 1, or of one band for grey; empty for the
            file's own colours.
        stretch: the values that become 0 and 255, each a raw value or a percentile such as "2%" of each image, over
            the chosen bands together; empty for the full range of the file's type.

    Raises:
        InputError: another number of bands or limits, a band below 1, or limits that are not in ascending order.
    """

    bands: tuple[int, ...] = ()
    stretch: tuple[Limit, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "bands", _parse_bands(self.bands))
        object.__setattr__(self, "stretch", _parse_stretch(self.stretch))

    def __bool__(self) -> bool:
        return bool(self.bands or self.stretch)

    def over(self, other: Rendering) -> Rendering:
        """Return this rendering, with the keys of another one where it has none."""
        return Rendering(self.bands or other.bands, self.stretch or other.stretch)

    def get_limits(self, sample: np.ndarray) -> tuple[float, float]:
        """Return the raw values that become 0 and 255.

        Args:
            sample: the valid values of an image, in any shape.
        """
        shares = [_get_percentile(limit) for limit in self.stretch]
        wanted = [share for share in shares if share is not None]
        # An image without a valid pixel has no percentiles, and is black.
        values = iter(np.percentile(sample, wanted).tolist() if wanted and sample.size else [0.0] * len(wanted))
        low, high = (
            float(limit) if share is None else next(values) for limit, share in zip(self.stretch, shares, strict=True)
        )
        return low, high


NO_RENDERING = Rendering()


class RawRange(NamedTuple):
    """The raw values that occur in 16-bit images: all but the lowest and the highest thousandth.

    Attributes:
        low, high: the smallest and the largest value.
        full: largest value of the type.
    """

    low: int
    high: int
    full: int


@dataclass(frozen=True)
class Picture:
    """A decoded image.

    Attributes:
        pixels: [H,W,3] uint8 RGB, upright, black where they are not valid.
        valid: [H,W] bool, False for nodata; None if all pixels are valid.
        raw_range: of the values of a 16-bit image without a stretch; otherwise None.
    """

    pixels: np.ndarray
    valid: np.ndarray | None = None
    raw_range: RawRange | None = None


def find_range(values: np.ndarray, full: int) -> RawRange:
    """Return the range of the values of an image.

    Args:
        values: integers, 0 to ``full``, in any shape.
        full: largest value of the type.
    """
    low, high = np.percentile(values, _COMMON_PERCENTILES) if values.size else (0, full)
    return RawRange(math.floor(low), math.ceil(high), full)


def join_ranges(ranges: Iterable[RawRange | None]) -> RawRange | None:
    """Return the range of several images; None if no image has one."""
    known = [RawRange(*one) for one in ranges if one is not None]
    if not known:
        return None
    return reduce(lambda a, b: RawRange(min(a.low, b.low), max(a.high, b.high), max(a.full, b.full)), known)


def describe_narrow_range(found: RawRange | None) -> str:
    """Return a warning if the images are nearly black, because their values fill less than a quarter of the range.

    Returns:
        One line; "" for no warning.
    """
    if found is None or found.high * _NARROW >= found.full:
        return ""
    bits = found.full.bit_length()
    return (
        f"{bits}-bit values {found.low}..{found.high} of 0..{found.full}, so the pictures are nearly black. "
        f"Set stretch: [{found.low}, {max(found.high, found.low + 1)}] (--stretch, INPUT.STRETCH)."
    )


def step_between_samples(height: int, width: int, pixels: int = SAMPLED_PIXELS) -> int:
    """Return the distance of sampled rows and columns, 1 for all pixels of an image of up to ``pixels``."""
    return max(1, math.ceil(math.sqrt(height * width / pixels)))


def stretch_values(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Map raw values linearly to 0..255, rounded and clipped.

    Args:
        values: in any shape, finite.
        limits: the values that become 0 and 255. If they are equal, larger values are white and all others black.
    Returns:
        uint8 of the same shape.
    """
    low, high = limits
    if low == high:
        return np.where(values > high, 255, 0).astype(np.uint8)
    scaled = (values.astype(np.float64) - low) * 255 / (high - low)
    return np.rint(scaled).clip(0, 255).astype(np.uint8)


def reduce_depth(values: np.ndarray, full: int) -> np.ndarray:
    """Map integers 0..``full`` to 0..255, as Pillow does.

    Args:
        values: [B,H,W] unsigned integers.
        full: largest value of the type.
    Returns:
        [B,H,W] uint8.
    """
    if full == 255:
        return values.astype(np.uint8)
    if full == 65535 and len(values) > 1:
        return (values >> 8).astype(np.uint8)
    return ((values.astype(np.int64) * 255 + full // 2) // full).astype(np.uint8)


def choose_bands(
    bands: Sequence[int], count: int, has_own_colours: bool, names: Sequence[str], where: object
) -> list[int]:
    """Return the numbers of the bands to read, counted from 1.

    Args:
        bands: of a rendering.
        count: bands of the image without alpha.
        has_own_colours: whether the first three bands of more than three are red, green and blue by the header.
        names: descriptions of the bands; empty if unknown.
        where: the image, for error messages.
    Raises:
        InputError: no bands are chosen from an image that is neither grey nor RGB, or a band does not exist.
    """
    described = f" ({', '.join(names)})" if any(names) else ""
    if bands:
        if max(bands) > count:
            got = f"band {max(bands)} of an image of {count} band{'s' * (count > 1)}{described}"
            raise InputError(where, got, "Choose other bands.", allowed=f"1 to {count}")
        return list(bands)
    if count in (1, 3) or has_own_colours:
        return list(range(1, min(count, 3) + 1))
    example = "3, 2, 1" if count > 2 else "1"
    fix = f"Choose three bands as red, green and blue, or one as grey: bands: [{example}] in the file of the data set, "
    fix += f"--bands {example.replace(',', '')}, or INPUT.BANDS '[{example}]'."
    raise InputError(where, f"{count} bands{described}, and no choice of bands", fix)


def render_values(values: np.ndarray, rendering: Rendering, where: object) -> Picture:
    """Render an array of raw values.

    Args:
        values: [B,H,W] integers or floats. NaN and infinity are nodata.
        rendering: applied to them. Without a stretch, the values are uint8.
        where: the image, for error messages.
    Raises:
        InputError: bands that do not exist, or values of another type without a stretch.
    """
    chosen = choose_bands(rendering.bands, len(values), False, (), where)
    values = values[np.array(chosen) - 1]
    finite = np.isfinite(values)
    if rendering.stretch:
        step = step_between_samples(*values.shape[1:])
        sample = values[:, ::step, ::step][finite[:, ::step, ::step]]
        pixels = stretch_values(np.where(finite, values, 0), rendering.get_limits(sample))
    elif values.dtype == np.uint8:
        pixels = values
    else:
        raise needs_stretch(where, str(values.dtype), values[finite])
    return compose(pixels, finite)


def compose(pixels: np.ndarray, valid: np.ndarray) -> Picture:
    """Join bands to a picture. A pixel is valid if one of its bands is.

    Args:
        pixels: [1,H,W] or [3,H,W] uint8.
        valid: [B,H,W] bool.
    """
    rgb = np.ascontiguousarray(np.where(valid, pixels, 0).astype(np.uint8).transpose(1, 2, 0))
    rgb = rgb if rgb.shape[2] == 3 else rgb.repeat(3, axis=2)  # [H,W,3]
    is_valid = np.asarray(valid.any(axis=0))  # [H,W]
    return Picture(rgb, None if is_valid.all() else is_valid)


def needs_stretch(where: object, kind: str, values: np.ndarray) -> InputError:
    """Return the error for values without a known range.

    Args:
        where: the image.
        kind: type of the values.
        values: the valid ones, in any shape.
    """
    low, high = (values.min(), values.max()) if values.size else (0, 0)
    white = high if high > low else low + 1
    got = f"{kind} values {low:g} to {high:g}, whose black and white are unknown"
    fix = f"Set them, for example stretch: [{low:g}, {white:g}] or [2%, 98%] in the file of the data set, --stretch, "
    return InputError(where, got, f"{fix}or INPUT.STRETCH.")
