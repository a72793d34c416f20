"""Integrity of weights files: checksums, and tensors that a model can compute with."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cliptrase_d2.utils.errors import InputError

# PyTorch stores tensors uncompressed; only an archive's code and lists are compressed.
_MAX_GROWTH, _SMALL = 4, 2**26
_MSDOS_FOLDER = 0x10


def check_zip(path: str | os.PathLike[str]) -> None:
    """Verify the checksums of a zip archive, such as PyTorch's files; PyTorch itself does not.

    Args:
        path: of a file; one that is not a zip archive passes.
    Raises:
        zipfile.BadZipFile: a part was altered, or the parts unpack to many times the size of the file.
        Exception: of further kinds, if the archive is damaged.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(part.file_size for part in archive.infolist())
        if unpacked > _MAX_GROWTH * Path(path).stat().st_size + _SMALL:
            raise zipfile.BadZipFile(f"its parts unpack to {unpacked:,} bytes, many times its own size")
        for part in archive.infolist():
            if part.external_attr & _MSDOS_FOLDER and part.file_size:
                # PyTorch does not read its data, and uses uninitialised memory for the numbers.
                raise zipfile.BadZipFile(f"its part {part.filename} is marked as a folder")
        altered = archive.testzip()
        if altered is not None:
            raise zipfile.BadZipFile(f"its part {altered} has another checksum")


def check_weights(path: object, weights: Mapping[Any, Tensor]) -> None:
    """Raise unless all weights are plain tensors of real, finite numbers; attention masks may be infinite.

    Args:
        path: their file, for the message.
        weights: by name. Views of more numbers than are stored, and sparse, quantised, nested or meta tensors, fail.
    Raises:
        InputError: naming the first tensor at fault.
    """
    for name, value in weights.items():
        fault = ""
        if not isinstance(name, str):
            fault = f"({type(name).__name__}) is not a text, but names a tensor"
        elif value.layout != torch.strided or value.is_quantized or value.device.type != "cpu" or value.is_nested:
            fault = "is not a plain tensor"
        elif value.numel() * value.element_size() > value.untyped_storage().nbytes():
            fault = f"has the shape {list(value.shape)}, but fewer numbers"
        elif value.is_complex():
            fault = "has complex numbers"
        elif value.is_floating_point() and not name.endswith("attn_mask") and not value.float().isfinite().all():
            fault = "contains NaN or Inf"
        if fault:
            raise InputError(path, f"{str(name)[:80]} {fault}", "Download or save it again.")
