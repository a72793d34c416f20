"""Reading of checkpoints as data only, without an unpickler that can run code."""

from __future__ import annotations

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
        if path.endswith(".safetensors"):
            content: Any = {"model": load_file(path)}
        else:
            check_zip(path)
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, zipfile, pickle and safetensors each have their own
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        fix = "Download or save it again; convert a pickle (.pkl) that you trust to .safetensors."
        raise InputError(path, f"it cannot be read as data ({reason})", fix) from error
    weights = content.get("model", content) if isinstance(content, Mapping) else None
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        keys = f" with the keys {', '.join(map(str, list(content)[:5]))}" if isinstance(content, Mapping) else ""
        fix = "Save the model's state_dict(), alone or under the key 'model'."
        raise InputError(path, f"not a table of tensors but a {type(content).__name__}{keys}", fix)
    check_weights(path, weights)
    return dict(content) if "model" in content else {"model": weights}


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
