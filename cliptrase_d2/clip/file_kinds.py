"""Kinds of weights files by their first bytes, and files of other kinds that are passed by mistake."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

from cliptrase_d2.utils.errors import InputError

_START = 512  # bytes that identify a file
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_LENGTH = 8  # bytes before the header of a safetensors file
_USE_PYTORCH = "Use the .safetensors, .pt or .bin file of the same model."
_UNPACK = "Unpack it, and pass the file or folder of weights inside."
# Pattern of the first bytes, kind, and what to do.
_OTHERS = (
    (rb"version https://git-lfs", "a pointer of Git LFS, not the weights", "Run git lfs pull, or download the file."),
    (rb"(?i)\s*<(!doctype|html|\?xml)", "a web page, not weights", "Download the file itself, signed in if necessary."),
    (rb"GGUF", "a GGUF file, of llama.cpp", _USE_PYTORCH),
    (rb"\x89HDF\r\n", "an HDF5 file, of Keras", _USE_PYTORCH),
    (rb"\x08[\x01-\x20][\x12\x1a\x22\x3a]", "an ONNX file", _USE_PYTORCH),
    (rb"[\x81-\x8f\xde\xdf]", "a MessagePack file, of Flax", _USE_PYTORCH),
    (rb"\x1f\x8b|\xfd7zXZ|7z\xbc\xaf|BZh|\x28\xb5\x2f\xfd|Rar!", "a compressed archive", _UNPACK),
    (rb"\s*\{", "a JSON file, not weights", "Pass the file of weights beside it, or their folder."),
)
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.(safetensors|bin)$")


def is_safetensors(path: Path) -> bool:
    """Return whether a file is to be read as safetensors, by its content, or else by its name."""
    start = _read_start(path)
    if start.startswith((_ZIP, _PICKLE)) and start[_LENGTH : _LENGTH + 1] != b"{":
        return False
    header = int.from_bytes(start[:_LENGTH], "little")
    return path.suffix == ".safetensors" or (
        start[_LENGTH : _LENGTH + 1] == b"{" and header <= path.stat().st_size - _LENGTH
    )


def check_kind(path: Path) -> None:
    """Raise if a file is of another kind than weights of PyTorch.

    Raises:
        InputError: naming the kind.
    """
    start = _read_start(path)
    if not start:
        raise InputError(path, "an empty file, of 0 bytes", "It was truncated. Copy or download it again.")
    if not is_safetensors(path):
        for pattern, kind, fix in _OTHERS:
            if re.match(pattern, start):
                raise InputError(path, kind, fix)


def check_whole(path: Path) -> None:
    """Raise if a file is by its name one part of a divided model, such as model-00001-of-00002.safetensors.

    Raises:
        InputError: it is.
    """
    if _SHARD.search(path.name):
        raise InputError(path, "one part of a divided model", "Pass the folder, with all parts and their index.")


def check_archive(path: Path) -> None:
    """Raise if a zip archive is not one of PyTorch's. Other files pass.

    Raises:
        InputError: naming its contents.
        Exception: many kinds, if the archive is damaged.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith("/data.pkl") for name in names):
        return
    if all(name.endswith(".npy") for name in names):
        raise InputError(path, "an archive of NumPy arrays, as of JAX", _USE_PYTORCH)
    listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    raise InputError(path, f"a zip archive that PyTorch did not write, of {listed or 'nothing'}", _UNPACK)


def _read_start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_START)
