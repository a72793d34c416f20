"""Precision of tensors, and their transfer to a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cliptrase_d2.utils.errors import InputError, check_choice

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def get_dtype(precision: str) -> torch.dtype:
    """Return the type of a precision in ``PRECISIONS``.

    Raises:
        InputError: the name is unknown.
    """
    check_choice("precision", precision, PRECISIONS)
    return PRECISIONS[precision]


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Return a context that computes in a type; it changes nothing for float32."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def check_finite(features: Tensor, images: Sequence[Mapping[str, Any]]) -> None:
    """Raise if features contain NaN or Inf, whose comparisons would yield an arbitrary class.

    Args:
        features: [B,…].
        images: their B inputs, with ``file_name`` for the message.
    Raises:
        InputError: naming the first such image.
    """
    is_finite = features.isfinite().flatten(1).all(1)  # [B]
    if bool(is_finite.all()):
        return
    name = images[int(is_finite.int().argmin())].get("file_name", "image")
    fix = "Set MODEL.CLIP.PRECISION fp32, or bf16, which has its range; with these, check the weights."
    raise InputError(name, "an image whose features contain NaN or Inf", fix)


def stack_to_device(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    """Stack tensors of one shape on a device.

    Tensors of one type go from the CPU to a GPU in a single asynchronous copy from pinned memory.

    Args:
        tensors: B tensors, at least one, each [...], on any device.
        device: of the result.
    Returns:
        [B,...].
    """
    is_one_type = len({tensor.dtype for tensor in tensors}) == 1
    if device.type != "cuda" or not is_one_type or any(tensor.device.type != "cpu" for tensor in tensors):
        return torch.stack([tensor.to(device) for tensor in tensors])
    pinned = torch.empty((len(tensors), *tensors[0].shape), dtype=tensors[0].dtype, pin_memory=True)
    return torch.stack(list(tensors), out=pinned).to(device, non_blocking=True)
