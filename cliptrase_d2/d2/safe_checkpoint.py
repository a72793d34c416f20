"""Read checkpoints as data only: no unpickler that can run code, on either side of the door."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.weights_files import check_zip, fault_in

_ALLOWED = "a complete .pth file of tensors and plain values, or a .safetensors file"


def read_checkpoint(path: str) -> dict[str, Any]:
    """The checkpoint with its weights under "model", all on the CPU; a bare state dict becomes {"model": it}.

    Raises:
        InputError: the file is truncated or changed, is no checkpoint, holds anything that only running code could
            load, or numbers that are infinite or none.
    """
    try:
        content = _read(path)
    except Exception as error:  # torch, zipfile, pickle and safetensors each raise their own for a bad file
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        fix = "Download or save it again; convert a pickle (.pkl) to .safetensors where you trust it."
        raise InputError(path, f"it cannot be read as data ({reason})", fix, allowed=_ALLOWED) from error
    weights = content.get("model", content) if isinstance(content, Mapping) else None
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        got = f"no table of tensors but {_outline(content)}"
        raise InputError(path, got, "Save the model's state_dict(), alone or under the key 'model'.", allowed=_ALLOWED)
    fault = fault_in(weights)
    if fault:
        raise InputError(path, fault, "Download or save it again.", allowed="weights that are plain, finite numbers")
    return dict(content) if "model" in content else {"model": weights}


def _read(path: str) -> Any:
    if path.endswith(".safetensors"):
        return {"model": load_file(path)}
    check_zip(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _outline(content: object) -> str:
    if isinstance(content, Mapping):
        return f"a table with the keys {', '.join(map(str, list(content)[:5]))}"
    return f"a {type(content).__name__}"


class _Form(NamedTuple):
    shape: torch.Size
    is_float: bool


def _form(value: Tensor) -> _Form:
    return _Form(value.shape, value.is_floating_point())


class DataOnly:
    """Put before a checkpointer's class: it then loads through `read_checkpoint` and never in silence."""

    model: nn.Module

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As the checkpointer's.

        Raises:
            InputError: no such file, or one that `read_checkpoint` refuses, or one for another model.
        """
        if path and "://" not in path and not os.path.isfile(path):
            raise InputError(
                path, "no such file", "Check MODEL.WEIGHTS, or the output folder to resume.", allowed="a checkpoint"
            )
        return super().load(path, *args, **kwargs)  # type: ignore[misc, no-any-return]  # of the class after this one

    def _load_file(self, filename: str) -> dict[str, Any]:
        checkpoint = read_checkpoint(filename)
        own = {name: _form(value) for name, value in self.model.state_dict().items()}
        given = {name.removeprefix("module."): _form(value) for name, value in checkpoint["model"].items()}
        for name in sorted(own.keys() & given.keys()):
            if own[name].shape == given[name].shape and own[name] != given[name]:
                got = f"{name} of {'fractions' if given[name].is_float else 'whole numbers'}"
                raise InputError(filename, got, "Save it without quantisation.", allowed="numbers of the model's kind")
        if own and not own.items() & given.items():
            got = f"none of its {len(given)} tensors has the name and shape of one of the model's {len(own)}"
            raise InputError(
                filename, got, "Choose the config that it was trained with.", allowed="a checkpoint of this model"
            )
        return checkpoint
