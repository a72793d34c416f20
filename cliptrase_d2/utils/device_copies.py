"""Brings tensors of a batch to the device that they are looked at on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def stack_to_device(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    """Tensors of one shape as a batch on a device.

    A GPU gets those of one type in one copy, out of memory that it reads by itself, while the processor goes on.

    Args:
        tensors: B of them, at least one, each [...] and anywhere.
        device: of the result.
    Returns:
        [B,...].
    """
    alike = len({tensor.dtype for tensor in tensors}) == 1
    if device.type != "cuda" or not alike or any(tensor.device.type != "cpu" for tensor in tensors):
        return torch.stack([tensor.to(device) for tensor in tensors])
    pinned = torch.empty((len(tensors), *tensors[0].shape), dtype=tensors[0].dtype, pin_memory=True)
    return torch.stack(list(tensors), out=pinned).to(device, non_blocking=True)
