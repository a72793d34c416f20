"""Weights of transformers' `CLIPModel` by open_clip's names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from cliptrase_d2.utils.errors import InputError

_TOWERS = {"vision_model": "visual.", "text_model": ""}
_NAMES = {
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",  # transformers spells it so
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
}
_TRANSPOSED = {"visual_projection.weight": "visual.proj", "text_projection.weight": "text_projection"}
_PARTS = {
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}  # fmt: skip
_LAYER = re.compile(r"(vision_model|text_model)\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_MARK = "vision_model.embeddings.patch_embedding.weight"


def is_transformers(names: Mapping[str, Tensor]) -> bool:
    """Return whether names of tensors are those of transformers' `CLIPModel`."""
    return _MARK in names


def rename(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of a `CLIPModel`. Unknown names stay. Stacks q, k and v, transposes both projections.

    Args:
        path: of the file, for the message.
    Raises:
        InputError: a layer has only some of q, k and v, or their shapes differ.
    """
    renamed: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if name.endswith("embeddings.position_ids"):  # 0, 1, 2, …, in files of older versions
            continue
        match = _LAYER.fullmatch(name)
        if name in _TRANSPOSED:
            renamed[_TRANSPOSED[name]] = value.T if value.ndim == 2 else value
        elif match and match[3] in _QKV:
            if match[3] == _QKV[0]:
                renamed[f"{_block(match)}.attn.in_proj_{match[4]}"] = _stack(path, tensors, name)
            elif name.replace(match[3], _QKV[0]) not in tensors:
                raise _incomplete(path, name)
        elif match and match[3] in _PARTS:
            renamed[f"{_block(match)}.{_PARTS[match[3]]}.{match[4]}"] = value
        else:
            renamed[_NAMES.get(name, name)] = value
    return renamed


def _block(match: re.Match[str]) -> str:
    return f"{_TOWERS[match[1]]}transformer.resblocks.{match[2]}"


def _stack(path: Path, tensors: Mapping[str, Tensor], query: str) -> Tensor:
    parts = [tensors.get(query.replace(_QKV[0], name)) for name in _QKV]
    values = [value for value in parts if value is not None and value.shape == tensors[query].shape and value.ndim]
    if len(values) < len(_QKV):
        raise _incomplete(path, query)
    return torch.cat(values)


def _incomplete(path: Path, name: str) -> InputError:
    return InputError(path, f"{name} without q, k and v of one shape", "Download or save it again.")
