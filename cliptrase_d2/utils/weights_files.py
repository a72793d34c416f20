"""Whether a weights file is sound: what its format checks of itself, and numbers that a model can calculate with."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# PyTorch stores tensors as they are; only the code of an archive and its lists are compressed.
_MOST_GROWTH, _SMALL = 4, 2**26
_MARK_OF_A_FOLDER = 0x10  # of MS-DOS


def check_zip(path: str | os.PathLike[str]) -> None:
    """Compare the parts of a zip archive, which PyTorch's files are, with their checksums, which PyTorch does not.

    Args:
        path: of a file; one that is no archive passes.
    Raises:
        zipfile.BadZipFile: a part that was changed, or parts that unpack to many times the size of the file.
        Exception: of further kinds, if the archive is damaged.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(part.file_size for part in archive.infolist())
        if unpacked > _MOST_GROWTH * Path(path).stat().st_size + _SMALL:
            raise zipfile.BadZipFile(f"its parts unpack to {unpacked:,} bytes, many times its own size")
        for part in archive.infolist():
            if part.external_attr & _MARK_OF_A_FOLDER and part.file_size:
                # PyTorch reads nothing of it, and takes what its memory happened to hold for the numbers.
                raise zipfile.BadZipFile(f"its part {part.filename} is marked as a folder")
        changed = archive.testzip()
        if changed is not None:
            raise zipfile.BadZipFile(f"its part {changed} has another checksum")


def fault_in(weights: Mapping[Any, Tensor]) -> str:
    """What is wrong with weights, "" for nothing.

    Tensors must be plain: no views of more numbers than they hold, nothing sparse, quantised or without data, and no
    number that is infinite or none, but for masks of attention.
    """
    for name, value in weights.items():
        if not isinstance(name, str):
            return f"a tensor whose name is {str(name)[:40]} ({type(name).__name__}), no text"
        if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu" or value.is_nested:
            return f"{name}, which is no plain tensor"
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            return f"{name} of shape {list(value.shape)}, but with fewer numbers"
        if value.is_complex():
            return f"{name}, which has complex numbers"
        is_mask = name.endswith("attn_mask")
        if value.is_floating_point() and not is_mask and not bool(torch.isfinite(value.float()).all()):
            return f"{name}, which has numbers that are infinite or none"
    return ""
