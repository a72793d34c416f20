"""A plain ViT of timm by name, with weights of its tag, of a file, or seeded random ones."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import PatchEmbed
from timm.models import eva, vision_transformer
from torch import nn

from cliptrase_d2.utils.errors import InputError, first_line, suggest
from cliptrase_d2.utils.weights_files import check_weights, check_zip

logger = logging.getLogger(__name__)
_SEED = 0
_BYTES = 4  # of a float32
_MAX_NAMES = 5  # in a message
# Families that take images of any size, with the functions that convert files of other projects to timm's names.
_FAMILIES: dict[Any, Callable[..., dict[str, Any]]] = {
    vision_transformer.VisionTransformer: vision_transformer.checkpoint_filter_fn,
    eva.Eva: eva.checkpoint_filter_fn,
}
_UNUSED = ("head", "fc_norm", "attn_pool", "mask_token")  # weights for classification or training only


def load_vit(name: str, weights: str, where: str = "backbone") -> Any:
    """Load a frozen ViT, on the CPU, in evaluation mode.

    Args:
        name: a model of timm, with or without the tag of its weights.
        weights: "pretrained" for those of the tag, a file (.safetensors or a state dict), or "" for random ones.
        where: argument that the name comes from, for errors. That of the weights has the ending "_weights".
    Raises:
        InputError: the model is unknown to timm, has no class token or is not a plain ViT, or its weights cannot be
            downloaded or loaded.
    """
    _check_name(name, where)
    with torch.device("meta"):  # refuse an unfit model before anything is downloaded
        empty = timm.create_model(_architecture(name), num_classes=0)
    _check_supported(empty, name, where)
    path = Path(weights).expanduser()
    if weights == "pretrained":
        megabytes = sum(parameter.numel() for parameter in empty.parameters()) * _BYTES / 1e6
        model = _download(name, f"{where}_weights", megabytes)
    elif not weights:
        model = _build_random(name)
        logger.warning("%s: RANDOM WEIGHTS (seed %d). The output of this model is meaningless.", name, _SEED)
    elif path.is_file():
        model = _fill(_build_random(name), path)
    else:
        fix = "Give an existing file, 'pretrained', or '' for random weights."
        raise InputError(f"{where}_weights", f"{weights!r}, no such file", fix)
    return model.eval().requires_grad_(False)


def _architecture(name: str) -> str:
    return name.partition(".")[0]  # the rest is the tag of the weights


def _check_name(name: str, where: str) -> None:
    if not timm.is_model(name):
        raise InputError(where, f"unknown model {name!r}", suggest(_architecture(name), timm.list_models()))
    if name != _architecture(name) and not timm.models.is_model_pretrained(name):
        tags = timm.list_pretrained(f"{_architecture(name)}.*")
        allowed = ", ".join(tags) or "a name without a tag"
        raise InputError(where, f"unknown tag in {name!r}", suggest(name, tags), allowed)


def _check_supported(model: Any, name: str, where: str) -> None:
    is_plain = type(getattr(model, "patch_embed", None)) is PatchEmbed and isinstance(model, tuple(_FAMILIES))
    if is_plain and model.cls_token is not None:
        return
    got = f"{name!r} has no class token" if is_plain else f"{name!r} is a {type(model).__name__}, no plain ViT"
    fix = "Choose a ViT such as vit_base_patch16_224.dino or vit_base_patch14_dinov2.lvd142m."
    raise InputError(where, got, fix)


def _create(name: str, *, pretrained: bool) -> nn.Module:
    # The size of the image decides the grid; timm resizes the positions.
    return timm.create_model(name, pretrained=pretrained, num_classes=0, dynamic_img_size=True)


def _download(name: str, where: str, megabytes: float) -> nn.Module:
    facts = timm.get_pretrained_cfg(name)
    address = f"https://huggingface.co/{facts.hf_hub_id}" if facts and facts.hf_hub_id else "its authors"
    logger.info("%s: %.0f MB of weights from %s, unless they were downloaded before", name, megabytes, address)
    try:
        return _create(name, pretrained=True)
    except Exception as error:  # timm, huggingface_hub and urllib raise errors of their own kinds
        got = f"the weights of {name!r}, {megabytes:.0f} MB, cannot be downloaded ({first_line(error)})"
        fix = f"Download {address} elsewhere and name its model.safetensors."
        raise InputError(where, got, fix) from error


def _build_random(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(_SEED)
        return _create(name, pretrained=False)


def _fill(model: nn.Module, path: Path) -> nn.Module:
    try:
        check_zip(path)
        state = timm.models.load_state_dict(str(path), weights_only=True)
        convert_names = next(convert for family, convert in _FAMILIES.items() if isinstance(model, family))
        missing, unexpected = model.load_state_dict(convert_names(state, model), strict=False)
    except Exception as error:  # a damaged file, or one of another model, can fail in any way
        raise _unusable(path, f"the model cannot read these weights ({first_line(error)})") from error
    check_weights(path, {name: value for name, value in state.items() if isinstance(value, torch.Tensor)})
    unexpected = [name for name in unexpected if not name.startswith(_UNUSED)]
    for label, names in (("missing", missing), ("unexpected", unexpected)):
        if names:
            shown = ", ".join(names[:_MAX_NAMES]) + (" …" if len(names) > _MAX_NAMES else "")
            raise _unusable(path, f"weights of another model, {label}: {shown}")
    return model


def _unusable(path: Path, got: str) -> InputError:
    return InputError(path, got, "Name the model that this file belongs to, or copy the file again.")
