"""CLIP checkpoints of all formats as named tensors, read without running code from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from cliptrase_d2.clip import transformers_names
from cliptrase_d2.clip.file_kinds import check_archive, check_kind, check_whole, is_safetensors
from cliptrase_d2.clip.find_clip import find_clip
from cliptrase_d2.clip.pickles import load_pickle
from cliptrase_d2.clip.torchscript import find_activation, is_torchscript, read_torchscript
from cliptrase_d2.clip.weights_folder import INDEX, check_parts, list_parts
from cliptrase_d2.utils.errors import InputError, first_line
from cliptrase_d2.utils.user_files import check_readable
from cliptrase_d2.utils.weights_files import check_weights, check_zip

FORMATS = "OpenAI's JIT archive, an open_clip .pt/.bin state dict, or .safetensors, also of transformers' CLIPModel"
_OPENAI_ENTRIES = frozenset({"input_resolution", "context_length", "vocab_size"})  # only in OpenAI's own state dicts
_ARCHIVE = "TorchScript archive"
_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# Long-CLIP (arXiv 2403.15378) has two position embeddings. The first rows are those of the first, which stay as OpenAI
# trained them, and the others those of the second.
_POSITION, _LONG_POSITION, _KEPT_ROWS = "positional_embedding", "positional_embedding_res", 20


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a weights file.

    Attributes:
        tensors: the weights by open_clip's names.
        ignored: names of entries that are not tensors.
        format: name of the file format.
        quick_gelu: whether the activation is QuickGELU; None if the file does not determine it.
        quick_gelu_reason: evidence for `quick_gelu`.
        part: key and prefix of the weights in the file, "" if it has nothing else.
        others: names of tensors beside this part.
        is_transformers: whether the names in the file are those of transformers.
    """

    tensors: dict[str, Tensor]
    ignored: tuple[str, ...]
    format: str
    quick_gelu: bool | None
    quick_gelu_reason: str
    part: str = ""
    others: tuple[str, ...] = ()
    is_transformers: bool = False


def read_checkpoint(path: Path, *, is_siglip: bool = False) -> Checkpoint:
    """Read a weights file, or all parts that an index names, on the CPU.

    Args:
        path: the file.
        is_siglip: whether to look for a SigLIP 2 of open_clip instead of a CLIP.
    Raises:
        InputError: the file is missing, damaged or not a checkpoint of CLIP, or contains code, NaN or Inf.
    """
    if path.name.endswith(INDEX):
        content, kind = _read_parts(path)
    else:
        check_whole(path)
        content, kind = _read_file(path)
    part = find_clip(path, content, is_siglip=is_siglip)
    if not part.tensors:
        got = f"no tensors ({kind} with {type(content).__name__})"
        raise InputError(path, got, "Pass the file of a trained CLIP model.", FORMATS)
    check_weights(path, part.tensors)
    _check_dtypes(path, part.tensors)
    tensors, is_transformers = part.tensors, transformers_names.is_transformers(part.tensors)
    if is_transformers:
        tensors, kind = transformers_names.rename(path, tensors), f"{kind} of transformers"
    quick_gelu, reason = _find_activation(path, tensors, kind)
    return Checkpoint(
        # attn_mask is the causal mask, which every model builds itself.
        tensors=_join_positions(
            path, {n: v for n, v in tensors.items() if n not in _OPENAI_ENTRIES and not n.endswith("attn_mask")}
        ),
        ignored=part.ignored,
        format=kind,
        quick_gelu=quick_gelu,
        quick_gelu_reason=reason,
        part=str(part),
        others=part.others,
        is_transformers=is_transformers,
    )


def _read_file(path: Path) -> tuple[object, str]:
    check_readable(path)
    check_kind(path)
    try:
        if is_safetensors(path):
            return safetensors.torch.load_file(path), "safetensors"
        check_zip(path)
        check_archive(path)
        if is_torchscript(path):
            return read_torchscript(path), _ARCHIVE
        return load_pickle(path), "PyTorch state dict"
    except InputError:
        raise
    except Exception as error:  # a damaged file can raise any error in its reader
        fix = "If it is truncated, copy or download it again."
        raise InputError(path, f"cannot be read ({first_line(error)})", fix, FORMATS) from error


def _read_parts(index: Path) -> tuple[object, str]:
    """Read a model that is divided into parts."""
    tensors: dict[str, object] = {}
    kind = ""
    for part in list_parts(index):
        content, kind = _read_file(part)
        if not isinstance(content, Mapping):
            raise InputError(part, f"{type(content).__name__} in place of tensors", "Download it again.")
        tensors.update(content)
    check_parts(index, tensors)
    return tensors, f"{kind} in parts"


def _find_activation(path: Path, tensors: Mapping[str, Tensor], kind: str) -> tuple[bool | None, str]:
    """Return whether the activation is QuickGELU, and the evidence; None if the file does not determine it."""
    activation = find_activation(path) if kind == _ARCHIVE else None
    if activation is not None:
        return activation, "according to the archive's code"
    if tensors.keys() >= _OPENAI_ENTRIES:
        return True, "as in all of OpenAI's models"
    if _LONG_POSITION in tensors:
        return True, "as in all Long-CLIP models"
    return None, ""


def _join_positions(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Join Long-CLIP's two position embeddings to one, which is exact."""
    long = tensors.pop(_LONG_POSITION, None)
    if long is None:
        return tensors
    short = tensors.get(_POSITION)
    if short is None or short.shape != long.shape:
        got = f"{_LONG_POSITION} of shape {list(long.shape)}, unlike {_POSITION}"
        raise InputError(path, got, "Download or save it again.")
    return {**tensors, _POSITION: torch.cat([short[:_KEPT_ROWS], long[_KEPT_ROWS:]])}


def _check_dtypes(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise if fractions have fewer than 16 bits; they need scales, whose names differ between programs."""
    for name, value in tensors.items():
        if value.is_floating_point() and value.dtype not in _DTYPES:
            raise InputError(path, f"{name} of {value.dtype}", "Save the weights in 16 or 32 bits.")
