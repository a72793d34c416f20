"""A weights file of any of CLIP's formats as plain named tensors, read without running code from it."""

from __future__ import annotations

import pickle  # nosec B403  # for the kind of its errors
import re
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from cliptrase_d2.clip.torchscript import activation_in_code, is_torchscript, read_torchscript
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.user_files import fault_of
from cliptrase_d2.utils.weights_files import check_zip, fault_in

FORMATS = "OpenAI's JIT archive, an open_clip .pt/.bin state dict, or .safetensors"
# Entries that only OpenAI's own state dicts have.
_OPENAI_ENTRIES = frozenset({"input_resolution", "context_length", "vocab_size"})
_DATA_PARALLEL = "module."
_ARCHIVE = "TorchScript archive"


@dataclass(frozen=True)
class Checkpoint:
    """What a weights file holds.

    Attributes:
        tensors: the weights by open_clip's names.
        ignored: names of entries that are no tensors.
        format: what the file is, in words.
        quick_gelu: whether its model has QuickGELU; None if the file does not tell.
        quick_gelu_reason: how the file tells.
    """

    tensors: dict[str, Tensor]
    ignored: tuple[str, ...]
    format: str
    quick_gelu: bool | None
    quick_gelu_reason: str


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a weights file on the CPU.

    Raises:
        InputError: the file is missing, damaged, no checkpoint, or holds more than data, or numbers that are none.
    """
    fault = fault_of(path)
    if fault:
        raise InputError(path, fault, "Check the path.", allowed=FORMATS)
    try:
        content, kind = _read(path)
    except Exception as error:  # a damaged file can make its reader fail in any way, and all mean the same
        raise _unreadable(path, error) from error
    entries = _state_dict(content)
    tensors: dict[str, Tensor] = {name: value for name, value in entries.items() if isinstance(value, Tensor)}
    if not tensors:
        raise InputError(
            path,
            f"no tensors ({kind} with {type(content).__name__})",
            "Pass the file of a trained CLIP model.",
            allowed=FORMATS,
        )
    fault = fault_in(tensors)
    if fault:
        raise InputError(path, fault, "Download or save it again.", allowed="weights that are plain, finite numbers")
    if all(name.startswith(_DATA_PARALLEL) for name in tensors):  # saved while wrapped for several GPUs
        tensors = {name.removeprefix(_DATA_PARALLEL): value for name, value in tensors.items()}
    quick_gelu, reason = _activation(path, kind, tensors)
    return Checkpoint(
        # attn_mask is the causal mask, which every model makes for itself.
        tensors={n: v for n, v in tensors.items() if n not in _OPENAI_ENTRIES and not n.endswith("attn_mask")},
        ignored=tuple(str(name) for name, value in entries.items() if not isinstance(value, Tensor)),
        format=kind,
        quick_gelu=quick_gelu,
        quick_gelu_reason=reason,
    )


def _read(path: Path) -> tuple[object, str]:
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path), "safetensors"
    check_zip(path)
    if is_torchscript(path):
        return read_torchscript(path), _ARCHIVE
    return torch.load(path, map_location="cpu", weights_only=True), "PyTorch state dict"


def _activation(path: Path, kind: str, names: Container[str]) -> tuple[bool | None, str]:
    in_code = activation_in_code(path) if kind == _ARCHIVE else None
    if in_code is not None:
        return in_code, "as the archive's code has it"
    if all(name in names for name in _OPENAI_ENTRIES):
        return True, "as in all of OpenAI's own models, which the file is one of"
    return None, ""


def _state_dict(content: object) -> dict[str, object]:
    if not isinstance(content, dict):
        return {}
    nested = content.get("state_dict")  # a training checkpoint, with optimizer and epoch beside the weights
    return nested if isinstance(nested, dict) else content


def _unreadable(path: Path, error: Exception) -> InputError:
    code = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
    if code:
        return InputError(
            path,
            f"a pickle that names {code[1]}, which could run code",
            "It was not executed. Get the weights from a source that you trust, as .safetensors or as a state dict.",
            allowed=f"files with nothing but tensors: {FORMATS}",
        )
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return InputError(
        path,
        f"a file that cannot be read ({reason[:120]})",
        "It may be truncated: copy or download it again.",
        allowed=FORMATS,
    )
