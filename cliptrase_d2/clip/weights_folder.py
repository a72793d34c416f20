"""Folders of weights: those of open_clip and transformers on the Hugging Face Hub, also divided into parts."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from cliptrase_d2.clip import model_configs
from cliptrase_d2.clip.foreign_models import MERGE_ADAPTER
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.user_files import read_text

INDEX = ".index.json"
_OPEN_CLIP = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
TRANSFORMERS_FILES = ("model.safetensors", "pytorch_model.bin")
_TRANSFORMERS = tuple(name for file in TRANSFORMERS_FILES for name in (file, f"{file}{INDEX}"))
# The weights of each kind of folder, the better format first, and the configurations that belong to them.
KINDS = (
    (_OPEN_CLIP, (model_configs.OPEN_CLIP,)),
    (_TRANSFORMERS, (model_configs.TRANSFORMERS, model_configs.PREPROCESSOR)),
)
_ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
_WEIGHTS = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")
_MAX_NAMES = 5  # in a message


def choose_file(where: object, names: Collection[str]) -> str:
    """Return the name of the weights, or of the index of their parts, among the files of a folder.

    Args:
        where: the folder, for the message.
    Raises:
        InputError: no file has a known name.
    """
    for weights, _ in KINDS:
        if file := next((name for name in weights if name in names), None):
            return file
    if adapter := next((name for name in _ADAPTER if name in names), None):
        raise InputError(where, f"an adapter (LoRA) without its base model; it has {adapter}", MERGE_ADAPTER)
    others = sorted(name for name in names if name.endswith(_WEIGHTS))
    if not others:
        got = f"a folder without weights; it has {_shorten(sorted(names)) or 'no files'}"
        raise InputError(where, got, "Pass the file of the weights, or a folder of open_clip or transformers.")
    raise InputError(where, f"a folder with weights of other names: {_shorten(others)}", "Pass one of these files.")


def is_transformers_file(name: str) -> bool:
    """Return whether transformers gives weights this name."""
    return name in _TRANSFORMERS


def list_parts(index: Path) -> list[Path]:
    """Return the files of a model that is divided into parts, in the folder of their index.

    Raises:
        InputError: the index is invalid, or a part is missing.
    """
    try:
        names = sorted(set(json.loads(read_text(index))["weight_map"].values()))
        if not names or any(Path(name).name != name or name.startswith(".") for name in names):
            raise ValueError(f"parts named {_shorten(names)}")
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(index, f"an invalid index ({type(error).__name__}: {error})", "Download it again.") from error
    present = {file.name for file in index.parent.iterdir()}  # a name in the index may be too long for a path
    if missing := [name for name in names if name not in present]:
        got = f"{len(missing)} of {len(names)} parts are missing: {_shorten(missing)}"
        raise InputError(index, got, "Download them into the same folder.")
    return [index.parent / name for name in names]


def check_parts(index: Path, tensors: Collection[str]) -> None:
    """Raise if the parts of a model lack a tensor of their index.

    Raises:
        InputError: naming the tensor.
    """
    for name in json.loads(read_text(index))["weight_map"]:
        if name not in tensors:
            raise InputError(index, f"the parts lack {name[:100]}", "Download them again, from one revision.")


def _shorten(names: list[str]) -> str:
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(repr(name)[1:-1][:60] for name in names[:_MAX_NAMES]) + more
