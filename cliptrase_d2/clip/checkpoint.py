"""CLIP checkpoints of all formats as named tensors, read without running code from them."""

from __future__ import annotations

import pickle  # nosec B403  # for its error class
import re
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from cliptrase_d2.clip.torchscript import find_activation, is_torchscript, read_torchscript
from cliptrase_d2.utils.errors import InputError, first_line
from cliptrase_d2.utils.user_files import check_readable
from cliptrase_d2.utils.weights_files import check_weights, check_zip

FORMATS = "OpenAI's JIT archive, an open_clip .pt/.bin state dict, or .safetensors"
_OPENAI_ENTRIES = frozenset({"input_resolution", "context_length", "vocab_size"})  # only in OpenAI's own state dicts
_DATA_PARALLEL = "module."
_ARCHIVE = "TorchScript archive"


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a weights file.

    Attributes:
        tensors: the weights by open_clip's names.
        ignored: names of entries that are not tensors.
        format: name of the file format.
        quick_gelu: whether the activation is QuickGELU; None if the file does not determine it.
        quick_gelu_reason: evidence for `quick_gelu`.
    """

    tensors: dict[str, Tensor]
    ignored: tuple[str, ...]
    format: str
    quick_gelu: bool | None
    quick_gelu_reason: str


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a weights file on the CPU.

    Raises:
        InputError: the file is missing, damaged or not a checkpoint, or contains code, NaN or Inf.
    """
    check_readable(path)
    try:
        content, kind = _read(path)
    except Exception as error:  # a damaged file can raise any error in its reader
        raise _describe(path, error) from error
    entries = _state_dict(content)
    tensors = {name: value for name, value in entries.items() if isinstance(value, Tensor)}
    if not tensors:
        got = f"no tensors ({kind} with {type(content).__name__})"
        raise InputError(path, got, "Pass the file of a trained CLIP model.", FORMATS)
    check_weights(path, tensors)
    if all(name.startswith(_DATA_PARALLEL) for name in tensors):  # saved by a training on several GPUs
        tensors = {name.removeprefix(_DATA_PARALLEL): value for name, value in tensors.items()}
    quick_gelu, reason = find_activation(path) if kind == _ARCHIVE else None, "according to the archive's code"
    if quick_gelu is None:
        is_openai = tensors.keys() >= _OPENAI_ENTRIES
        quick_gelu, reason = (True, "as in all of OpenAI's models") if is_openai else (None, "")
    return Checkpoint(
        # attn_mask is the causal mask, which every model builds itself.
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


def _state_dict(content: object) -> dict[str, object]:
    if not isinstance(content, dict):
        return {}
    nested = content.get("state_dict")  # of a training checkpoint, beside the optimizer and the epoch
    return nested if isinstance(nested, dict) else content


def _describe(path: Path, error: Exception) -> InputError:
    if isinstance(error, pickle.UnpicklingError) and (code := re.search(r"GLOBAL (\S+)", str(error))):
        fix = "It was not executed. Get the weights from a trusted source, as .safetensors or as a state dict."
        return InputError(path, f"a pickle that names {code[1]}, which could run code", fix)
    fix = "If it is truncated, copy or download it again."
    return InputError(path, f"cannot be read ({first_line(error)})", fix, FORMATS)
