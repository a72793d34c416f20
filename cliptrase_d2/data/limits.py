"""Limits of the size of images."""

from __future__ import annotations

from cliptrase_d2.utils.errors import InputError

# Enough for cameras of 100 megapixels. Each reading process then needs 0.4 GB for the colours and 1 GB to count the
# labels. Most machines could not spare twice as much for each process.
MAX_PIXELS = 2**27


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
