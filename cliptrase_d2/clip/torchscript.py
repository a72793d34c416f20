"""Tensors of a TorchScript archive, read without running code from it.

OpenAI publishes CLIP as TorchScript. `torch.jit.load` compiles the archive's code and may run parts of it while loading
(`__setstate__`), `torch.load(weights_only=True)` rejects such files, and PyTorch is retiring TorchScript. An archive is
a zip file with raw storages and a pickle that lists the attributes of the modules. The reader below accepts the few
globals that such a list needs, none of which does more than hold data, and rejects all others.
"""

from __future__ import annotations

import pickle  # nosec B403  # restricted to the globals below
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_DTYPES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip
_MAX_MODULES = 10_000  # a CLIP has hundreds; modules that contain each other would never end


def is_torchscript(path: Path) -> bool:
    """Return whether a file is a zip archive with TorchScript's table of constants."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(entry.count("/") == 1 and entry.endswith("/constants.pkl") for entry in archive.namelist())


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Return the tensors of the archived module by their dotted names, as in its `state_dict`.

    Raises:
        pickle.UnpicklingError: the pickle names anything but modules and tensors.
        Exception: many kinds, if the archive is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        entry = next(entry for entry in archive.namelist() if entry.count("/") == 1 and entry.endswith("/data.pkl"))
        with archive.open(entry) as stream:
            root = _Unpickler(stream, archive, entry.removesuffix(".pkl")).load()
    return _collect_tensors(root)


def find_activation(path: Path) -> bool | None:
    """Search the archive's code for the activation: True for QuickGELU, False for GELU, None for neither."""
    with zipfile.ZipFile(path) as archive:
        code = b"".join(archive.read(entry) for entry in archive.namelist() if entry.endswith(".py"))
    if b"torch.gelu(" in code:
        return False
    return True if b"torch.sigmoid(" in code else None  # QuickGELU, x·sigmoid(1.702·x), has the only sigmoid in CLIP


class _Module:
    """A module of the archive, reduced to its attributes."""

    attributes: dict[str, Any]

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        self.attributes = attributes


def _collect_tensors(root: _Module) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    queue = [("", root)]
    for _ in range(_MAX_MODULES):
        if not queue:
            return tensors
        prefix, module = queue.pop()
        for name, value in module.attributes.items():
            if isinstance(value, Tensor):
                tensors[prefix + name] = value
            elif isinstance(value, _Module):
                queue.append((f"{prefix}{name}.", value))
    raise pickle.UnpicklingError(f"more than {_MAX_MODULES} modules")


# The unpickler in C allocates memory for as many objects as the file claims to have.
class _Unpickler(pickle._Unpickler):
    """An unpickler for modules, tensors and plain containers only."""

    def __init__(self, stream: Any, archive: zipfile.ZipFile, folder: str):
        super().__init__(stream)
        self.archive, self.folder = archive, folder
        self.storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return _Module
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        # A pickle may set attributes of the functions it receives, so each one is a new lambda.
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda *arguments: _view(*arguments)
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch.jit._pickle":  # type tags of lists and dicts
            return lambda value, *_: value
        raise pickle.UnpicklingError(f"GLOBAL {module}.{name} is not part of a TorchScript module's weights")

    def persistent_load(self, reference: Any) -> Tensor:
        _, dtype, key, _, length = reference  # ("storage", dtype, key, original device, length)
        if key not in self.storages:
            raw = bytearray(self.archive.read(f"{self.folder}/{key}"))
            empty = torch.empty(0, dtype=dtype)
            self.storages[key] = torch.frombuffer(raw, dtype=dtype, count=length) if length else empty
        return self.storages[key]


def _view(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return storage.as_strided(size, stride, offset)
