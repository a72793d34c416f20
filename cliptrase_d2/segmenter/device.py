"""Which device a run uses."""

from __future__ import annotations

import torch

from cliptrase_d2.d2 import CfgNode
from cliptrase_d2.utils.errors import InputError


def resolve_device(cfg: CfgNode) -> bool:
    """Check MODEL.DEVICE, and write "cpu" into it where it asks for CUDA on a machine that has none.

    Returns:
        Whether the CPU took the place of CUDA, for the log.
    Raises:
        InputError: a device that PyTorch does not know, or that this machine does not have.
    """
    name = cfg.MODEL.DEVICE
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise _no_device(name) from error
    if device.type == "cuda" and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
        return True
    try:
        torch.empty(1, device=device)
    # PyTorch says it in many ways: no such backend, index out of range, not compiled in.
    except (RuntimeError, AssertionError, ImportError) as error:
        raise _no_device(name) from error
    return False


def _no_device(name: str) -> InputError:
    devices = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    devices += ["mps"] if torch.backends.mps.is_available() else []
    return InputError(
        "MODEL.DEVICE", repr(name), "Choose one of these.", allowed=f"a device of this machine: {', '.join(devices)}"
    )
