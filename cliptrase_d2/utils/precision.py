"""The arithmetic of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cliptrase_d2.utils.errors import InputError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def get_dtype(precision: str) -> torch.dtype:
    """The number type of a key of ``PRECISIONS``.

    Raises:
        InputError: there is none of this name.
    """
    if precision not in PRECISIONS:
        raise InputError("MODEL.CLIP.PRECISION", repr(precision), "Choose one of these.", allowed=", ".join(PRECISIONS))
    return PRECISIONS[precision]


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """A context for arithmetic of a type; nothing changes in it for float32."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def check_finite(features: Tensor, images: Sequence[Mapping[str, Any]]) -> None:
    """Refuse to name what is no number: a comparison with it has no result, so any class would do.

    Args:
        features: [B,…] of images.
        images: the inputs they are of, with ``file_name`` for the message.
    Raises:
        InputError: of the first image with a feature that is infinite or no number.
    """
    is_finite = features.isfinite().flatten(1).all(1)
    if bool(is_finite.all()):
        return
    got = "an image whose features are infinite or no numbers"
    fix = "Set MODEL.CLIP.PRECISION fp32, or bf16, which has its range; if it is so already, look at the weights."
    raise InputError(
        images[int(is_finite.int().argmin())].get("file_name", "image"), got, fix, allowed="finite features"
    )
