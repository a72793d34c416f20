"""Brings images to the device that they are looked at on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def stacked(images: Sequence[Tensor], device: torch.device) -> Tensor:
    """Images of one shape as a batch on a device.

    A GPU gets images of one type in one copy, out of memory that it reads by itself, while the processor goes on.

    Args:
        images: each [3,H,W], anywhere.
        device: of the result.
    Returns:
        [B,3,H,W].
    """
    alike = len({image.dtype for image in images}) == 1
    if device.type != "cuda" or not alike or any(image.device.type != "cpu" for image in images):
        return torch.stack([image.to(device) for image in images])
    pinned = torch.empty((len(images), *images[0].shape), dtype=images[0].dtype, pin_memory=True)
    return torch.stack(list(images), out=pinned).to(device, non_blocking=True)
