"""The arithmetic of a model."""

from __future__ import annotations

import torch

from cliptrase_d2.errors import InputError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def dtype_of(precision: str) -> torch.dtype:
    """The number type of a key of ``PRECISIONS``.

    Raises:
        InputError: there is none of this name.
    """
    if precision not in PRECISIONS:
        raise InputError("MODEL.CLIP.PRECISION", repr(precision), ", ".join(PRECISIONS), "Choose one of these.")
    return PRECISIONS[precision]


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """A context for arithmetic of a type; nothing changes in it for float32."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
