"""Which side of the door is open: Detectron2 itself, or the fallback."""

from __future__ import annotations

import importlib.util
import os

from cliptrase_d2.utils.errors import InputError

SWITCH = "CLIPTRASE_D2"
BACKENDS = ("detectron2", "fallback")
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


def choose_backend() -> str:
    """The side to use: what the environment variable says, else Detectron2 where it is installed.

    Raises:
        InputError: the variable has another value, or asks for a Detectron2 that is not there.
    """
    wanted = os.environ.get(SWITCH, "")
    if not wanted:
        return "detectron2" if is_installed() else "fallback"
    where = f"environment variable {SWITCH}"
    if wanted not in BACKENDS:
        raise InputError(where, f"'{wanted}'", "Correct it, or unset it.", allowed=" or ".join(BACKENDS))
    if wanted == "detectron2" and not is_installed():
        raise InputError(
            where, "'detectron2', which is not installed", f"{_INSTALL}; or unset it.", allowed="an installed side"
        )
    return wanted


def describe_backend(side: str, version: str) -> str:
    """One line for the log: what runs, and why."""
    if side == "detectron2":
        return f"Detectron2 {version}"
    reason = f"chosen by {SWITCH}" if is_installed() else "Detectron2 not installed"
    return f"fallback ({reason})"


def broken_detectron2(error: Exception) -> InputError:
    """What to tell a user whose Detectron2 is there but fails on import, most often built for another PyTorch."""
    return InputError(
        "Detectron2",
        f"it is installed, but importing it fails with {type(error).__name__}: {error}",
        f"{_INSTALL}; or set {SWITCH}=fallback to run without it.",
        allowed="a Detectron2 that the installed packages can import",
    )
