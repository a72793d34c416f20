"""Which side of the door is open: Detectron2 itself, or the stand-in."""

from __future__ import annotations

import importlib.util
import os

from cliptrase_d2.errors import InputError

SWITCH = "CLIPTRASE_D2"
SIDES = ("detectron2", "standin")
_INSTALL = (
    "Build it against the installed PyTorch: "
    "pip install --no-build-isolation 'git+https://github.com/facebookresearch/detectron2.git'"
)


def is_installed() -> bool:
    """Whether `import detectron2` would find the library.

    A mere folder of that name, such as a clone beside the script, is no library: it has no origin.
    """
    spec = importlib.util.find_spec("detectron2")
    return spec is not None and spec.origin is not None


def choose_side() -> str:
    """The side to use: what the environment variable says, else Detectron2 where it is installed.

    Raises:
        InputError: the variable has another value, or asks for a Detectron2 that is not there.
    """
    wanted = os.environ.get(SWITCH, "")
    if not wanted:
        return "detectron2" if is_installed() else "standin"
    where = f"environment variable {SWITCH}"
    if wanted not in SIDES:
        raise InputError(where, f"'{wanted}'", " or ".join(SIDES), "Correct it, or unset it.")
    if wanted == "detectron2" and not is_installed():
        raise InputError(
            where, "'detectron2', which is not installed", "an installed side", f"{_INSTALL}; or unset it."
        )
    return wanted


def describe_side(side: str, version: str) -> str:
    """One line for the log: what runs, and why."""
    if side == "detectron2":
        return f"Detectron2 {version}"
    reason = f"chosen by {SWITCH}" if is_installed() else "Detectron2 not installed"
    return f"stand-in ({reason})"


def broken_detectron2(error: Exception) -> InputError:
    """What to tell a user whose Detectron2 is there but fails on import, most often built for another PyTorch."""
    return InputError(
        "Detectron2",
        f"it is installed, but importing it fails with {type(error).__name__}: {error}",
        "a Detectron2 that the installed packages can import",
        f"{_INSTALL}; or set {SWITCH}=standin to run without it.",
    )
