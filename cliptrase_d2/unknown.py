"""The label "unknown" of pixels whose score is below a threshold."""

from __future__ import annotations

from cliptrase_d2.utils.errors import InputError

UNKNOWN = -1  # in label maps; in PNG files the largest value, 255 with 8 bits and 65535 with 16
UNKNOWN_NAME = "unknown"


def check_threshold(threshold: float, where: object = "threshold") -> float:
    """Return a threshold unchanged.

    Args:
        threshold: least score of a pixel's class; 0 for none.
        where: argument or configuration key, for error messages.
    Raises:
        InputError: it is not in 0 to 1.
    """
    if not 0 <= threshold <= 1:
        raise InputError(where, threshold, "Change it.", allowed="0 to 1, the least probability; 0 for no threshold")
    return threshold
