"""Pickled checkpoints, read as data: tensors, plain containers, and placeholders for a few harmless types."""

from __future__ import annotations

import pickle  # nosec B403  # for its error class
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from threading import Lock
from typing import Any

import torch

from cliptrase_d2.utils.errors import InputError

_lock = Lock()  # the list of allowed types belongs to the process
# Run on the file and a new name, this writes the tensors alone.
_CONVERSION = (
    "import sys, torch, safetensors.torch as s; d = torch.load(sys.argv[1], 'cpu', weights_only=False); "
    "d = d.state_dict() if hasattr(d, 'state_dict') else d.get('state_dict', d.get('model', d)); "
    "s.save_file({k: v.clone().contiguous() for k, v in d.items() if torch.is_tensor(v)}, sys.argv[2])"
)


class Placeholder:
    """Object in place of one that holds no weights. It keeps nothing of the file, and no code of the type runs.

    NumPy's own functions would trust the file: a data type with forged flags turns bytes into pointers.
    """

    def __new__(cls, *_: object) -> Placeholder:
        return object.__new__(cls)

    def __init__(self, *_: object):
        pass

    def __setstate__(self, _: object) -> None:
        pass


def _names() -> Iterable[str]:
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):  # before and since NumPy 2
        yield from (f"{module}.scalar", f"{module}._reconstruct")
    yield from ("numpy.dtype", "numpy.ndarray", "argparse.Namespace")
    for module in ("pathlib", "pathlib._local"):  # the second in Python 3.13
        yield from (f"{module}.{name}" for name in ("Path", "PosixPath", "WindowsPath", "PurePosixPath"))
    yield from (f"builtins.{name}" for name in ("int", "float", "str", "bool", "list", "dict", "tuple"))


def _build_default_dict(*_: object) -> dict[Any, Any]:
    return {}


_HARMLESS = [*((Placeholder, name) for name in _names()), (_build_default_dict, "collections.defaultdict")]


def load_pickle(path: Path) -> object:
    """Read a file of `torch.save` on the CPU, without running code from it.

    Raises:
        InputError: the pickle names a type or function that is not allowed.
        Exception: many kinds, if the file is damaged.
    """
    try:
        with _lock, torch.serialization.safe_globals(_HARMLESS):  # type: ignore[arg-type]  # accepts pairs
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if code := re.search(r"GLOBAL (\S+)", str(error)):
            raise reject_code(path, code[1]) from error
        raise


def reject_code(path: Path, name: str) -> InputError:
    """Return the error for a pickle that names a type or function, with the command that converts the file."""
    new = path.with_name(f"{path.stem}.tensors.safetensors")
    command = f"python -c {shlex.quote(_CONVERSION)} {shlex.quote(str(path))} {shlex.quote(str(new))}"
    got = f"a pickle that names {name[:100]}, which could run code"
    fix = (
        "It was not executed. The name may be harmless, such as a setting of the training. If you trust the source, "
        f"keep only the tensors, on a machine without secrets, since this runs the pickle: {command}"
    )
    return InputError(path, got, fix)
