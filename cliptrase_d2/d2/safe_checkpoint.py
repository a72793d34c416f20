"""Reading of checkpoints as data only, without an unpickler that can run code."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.user_files import check_readable
from cliptrase_d2.utils.weights_files import check_weights, check_zip


def read_checkpoint(path: str) -> dict[str, Any]:
    """Return the checkpoint, on the CPU, with its weights under "model"; wrap a bare state dict as {"model": it}.

    Raises:
        InputError: the file is truncated or altered, is not a checkpoint, needs code to be loaded, or holds NaN or Inf.
    """
    try:
        check_zip(path)
    except Exception as error:  # zipfile and zlib have several
        raise _unreadable(path, error) from error
    checkpoint = _parse(path)
    check_weights(path, checkpoint["model"])
    return checkpoint


def peek_checkpoint(path: str) -> dict[str, Any]:
    """Return a checkpoint like `read_checkpoint`, for its names and shapes: the values are neither read nor checked.

    Raises:
        InputError: the file cannot be read, or is not a checkpoint.
    """
    return _parse(path, mmap=zipfile.is_zipfile(path))


def _parse(path: str, *, mmap: bool = False) -> dict[str, Any]:
    """Read a file, with its weights under "model"."""
    try:
        if path.endswith(".safetensors"):
            content: Any = {"model": load_file(path)}
        else:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # torch, zipfile, pickle and safetensors each have their own
        raise _unreadable(path, error) from error
    weights = content.get("model", content) if isinstance(content, Mapping) else None
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        keys = f" with the keys {', '.join(map(str, list(content)[:5]))}" if isinstance(content, Mapping) else ""
        fix = "Save the model's state_dict(), alone or under the key 'model'."
        raise InputError(path, f"not a table of tensors but a {type(content).__name__}{keys}", fix)
    return dict(content) if "model" in content else {"model": weights}


def _unreadable(path: str, error: Exception) -> InputError:
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    fix = "Download or save it again; convert a pickle (.pkl) that you trust to .safetensors."
    return InputError(path, f"it cannot be read as data ({reason})", fix)


# Entry of a checkpoint, and attribute of a model: whether its CLIP has QuickGELU, which the weights do not show.
QUICK_GELU = "quick_gelu"


class DataOnly:
    """Mixin for a checkpointer: loads through `read_checkpoint` and rejects files that do not fit the model."""

    model: nn.Module

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a checkpoint into the model, as the checkpointer's own method does.

        Raises:
            InputError: the file does not exist, `read_checkpoint` rejects it, or it belongs to another model.
        """
        if path and "://" not in path:
            check_readable(path, "Check MODEL.WEIGHTS, or the output folder to resume.")
        return super().load(path, *args, **kwargs)  # type: ignore[misc, no-any-return]  # the next class's method

    def _load_file(self, filename: str) -> dict[str, Any]:
        checkpoint = read_checkpoint(filename)
        activation = getattr(self.model, QUICK_GELU, None)
        if activation is not None and checkpoint.get(QUICK_GELU, activation) != activation:
            got = f"weights of a CLIP {'without' if activation else 'with'} QuickGELU, unlike the model's"
            fix = "Set MODEL.WEIGHTS to this file before the model is built, or change MODEL.CLIP.PRETRAINED."
            raise InputError(filename, got, fix)
        own = self.model.state_dict()
        loaded = {name.removeprefix("module."): value for name, value in checkpoint["model"].items()}
        fitting = [name for name in sorted(own.keys() & loaded.keys()) if own[name].shape == loaded[name].shape]
        for name in fitting:
            if own[name].is_floating_point() != loaded[name].is_floating_point():
                got = f"{name} of {'fractions' if loaded[name].is_floating_point() else 'integers'}"
                raise InputError(filename, got, "Save it without quantisation.")
        if own and not fitting:
            got = f"none of its {len(loaded)} tensors has the name and shape of one of the model's {len(own)}"
            raise InputError(filename, got, "Choose the config that it was trained with.")
        return checkpoint
