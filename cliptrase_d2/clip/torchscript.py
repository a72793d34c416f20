"""Tensors out of a TorchScript archive without running anything in it.

OpenAI publishes CLIP as TorchScript. `torch.jit.load` compiles the archive's code and may run parts of it while
loading (`__setstate__`), `torch.load(weights_only=True)` refuses such files, and PyTorch is retiring TorchScript.
But an archive is a zip file with a pickle that lists the modules' attributes, and with raw storages. The reader
below knows the few names that such a list needs, none of which does more than hold data, and refuses all others.
"""

from __future__ import annotations

import pickle  # nosec B403  # with a list of what it may build
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}

_MOST_MODULES = 10_000  # a CLIP has hundreds; modules that hold each other would never end


def is_torchscript(path: Path) -> bool:
    """Whether the file is a zip archive with TorchScript's table of constants."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(entry.count("/") == 1 and entry.endswith("/constants.pkl") for entry in archive.namelist())


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Every tensor of the archived module by its dotted name, as `state_dict` would give it.

    Raises:
        pickle.UnpicklingError: the archive names something other than modules and tensors.
        Exception: of many kinds, if the archive is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        entry = next(entry for entry in archive.namelist() if entry.count("/") == 1 and entry.endswith("/data.pkl"))
        with archive.open(entry) as stream:
            root = _Reader(stream, archive, entry.removesuffix(".pkl")).load()
    return _tensors(root)


def activation_in_code(path: Path) -> bool | None:
    """Whether the archived code, which is only looked at, uses QuickGELU (True) or GELU (False); None: neither."""
    with zipfile.ZipFile(path) as archive:
        code = b"".join(archive.read(entry) for entry in archive.namelist() if entry.endswith(".py"))
    if b"torch.gelu(" in code:
        return False
    return True if b"torch.sigmoid(" in code else None  # x·sigmoid(1.702·x) is the only sigmoid in CLIP


class _Module:
    """A module of the archive: its attributes and nothing else."""

    attributes: dict[str, Any]

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        self.attributes = attributes


def _tensors(root: _Module) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    waiting = [("", root)]
    for _ in range(_MOST_MODULES):
        if not waiting:
            return found
        prefix, module = waiting.pop()
        for name, value in module.attributes.items():
            if isinstance(value, Tensor):
                found[prefix + name] = value
            elif isinstance(value, _Module):
                waiting.append((f"{prefix}{name}.", value))
    raise pickle.UnpicklingError(f"more than {_MOST_MODULES} modules")


# The unpickler in C would take memory for as many objects as the file says that it has.
class _Reader(pickle._Unpickler):
    """An unpickler that can build modules, tensors and plain containers only."""

    def __init__(self, stream: Any, archive: zipfile.ZipFile, storages: str):
        super().__init__(stream)
        self.archive, self.storages = archive, storages
        self.stored: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return _Module
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        # A pickle may set attributes of what it is given, so it is given functions of its own.
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda *parts: _view(*parts)
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch.jit._pickle":  # tags the type of a list or a dict
            return lambda value, *_: value
        raise pickle.UnpicklingError(f"GLOBAL {module}.{name} is not part of a TorchScript module's weights")

    def persistent_load(self, reference: Any) -> Tensor:
        _, dtype, key, _, length = reference  # ("storage", dtype, key, device it was saved from, length)
        if key not in self.stored:
            raw = bytearray(self.archive.read(f"{self.storages}/{key}"))
            self.stored[key] = (
                torch.frombuffer(raw, dtype=dtype, count=length) if length else torch.empty(0, dtype=dtype)
            )
        return self.stored[key]


def _view(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return storage.as_strided(size, stride, offset)
