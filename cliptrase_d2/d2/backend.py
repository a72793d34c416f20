"""Choice of the backend: Detectron2, or the fallback."""

from __future__ import annotations

import importlib.util
import os

from cliptrase_d2.utils.errors import InputError, check_choice

SWITCH = "CLIPTRASE_D2"
_INSTALL = "Build it: pip install --no-build-isolation 'git+https://github.com/facebookresearch/detectron2.git'"


def is_installed() -> bool:
    """Return whether `import detectron2` finds the library.

    A mere folder of that name, such as a clone next to the script, has no origin and does not count.
    """
    spec = importlib.util.find_spec("detectron2")
    return spec is not None and spec.origin is not None


def choose_backend() -> str:
    """Return the backend that CLIPTRASE_D2 selects; by default Detectron2 if it is installed, else the fallback.

    Raises:
        InputError: the variable has another value, or selects Detectron2, which is not installed.
    """
    choice = os.environ.get(SWITCH) or ("detectron2" if is_installed() else "fallback")
    choice = "fallback" if choice == "standin" else choice  # the former spelling
    where = f"environment variable {SWITCH}"
    check_choice(where, choice, ("detectron2", "fallback"))
    if choice == "detectron2" and not is_installed():
        raise InputError(where, "'detectron2', which is not installed", f"{_INSTALL}; or unset it.")
    return choice


def describe_backend(backend: str, version: str) -> str:
    """Return one line for the log: the backend in use, and why."""
    if backend == "detectron2":
        return f"Detectron2 {version}"
    return f"fallback ({f'chosen by {SWITCH}' if is_installed() else 'Detectron2 not installed'})"


def explain_import_error(error: Exception) -> InputError:
    """Describe why an installed Detectron2 fails on import, usually because it was built for another PyTorch."""
    got = f"it is installed, but importing it fails with {type(error).__name__}: {error}"
    return InputError("Detectron2", got, f"{_INSTALL}; or set {SWITCH}=fallback to run without it.")
