"""A plain ViT of timm by name, with weights of its tag, of a file, or seeded random ones."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import timm
import torch
from timm.layers import PatchEmbed
from timm.models import eva, vision_transformer
from torch import nn

from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.weights_files import check_zip, fault_in

logger = logging.getLogger(__name__)
_KEY, _WEIGHTS_KEY = "MODEL.MASKS.BACKBONE", "MODEL.MASKS.BACKBONE_WEIGHTS"
_SEED = 0
_SHOWN = 5  # names in a message
# The families that take images of any size, each with what brings files of other projects to timm's names.
_FAMILIES: dict[Any, Callable[..., dict[str, Any]]] = {
    vision_transformer.VisionTransformer: vision_transformer.checkpoint_filter_fn,
    eva.Eva: eva.checkpoint_filter_fn,
}
_NOT_TOKENS = ("head", "fc_norm", "attn_pool", "mask_token")  # of a classifier or of training: tokens need none of it


def load_vit(name: str, weights: str) -> Any:
    """Build a frozen ViT, on the CPU, in evaluation mode.

    Args:
        name: of a model in timm, with or without the tag of its weights.
        weights: "pretrained" for those of the tag, a file (.safetensors or a state dict), or "" for random ones.
    Raises:
        InputError: timm does not know the model, it has no class token or is no plain ViT, or the weights cannot
            be had, read or used.
    """
    _check_name(name)
    with torch.device("meta"):  # costs nothing, so an unfit model is refused before anything is downloaded
        _check_supported(timm.create_model(_architecture(name), num_classes=0), name)
    path = Path(weights).expanduser()
    if weights == "pretrained":
        model = _pretrained(name)
    elif not weights:
        model = _seeded(name)
        logger.warning("%s\nRANDOM WEIGHTS, seed %d: the masks of this model mean nothing.", name, _SEED)
    elif path.is_file():
        model = _fill(_seeded(name), path)
    else:
        raise InputError(
            _WEIGHTS_KEY,
            f"{weights!r}, which is no file here",
            "Check the path.",
            allowed="'pretrained', a file, or '' for random weights",
        )
    return model.eval().requires_grad_(False)


def _architecture(name: str) -> str:
    return name.partition(".")[0]  # what follows is the tag of weights


def _check_name(name: str) -> None:
    if not timm.is_model(name):
        _refuse_name(f"the unknown model {name!r}", _architecture(name), timm.list_models(), "timm.list_models()")
    if name != _architecture(name) and not timm.models.is_model_pretrained(name):
        tags = timm.list_pretrained(f"{_architecture(name)}.*")
        _refuse_name(f"the unknown tag of {name!r}", name, tags, ", ".join(tags) or "a name without a tag")


def _refuse_name(got: str, name: str, known: list[str], allowed: str) -> NoReturn:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    raise InputError(
        _KEY, got, f"Did you mean {' or '.join(close)}?" if close else "Check the spelling.", allowed=allowed
    )


def _check_supported(model: Any, name: str) -> None:
    plain = type(getattr(model, "patch_embed", None)) is PatchEmbed and isinstance(model, tuple(_FAMILIES))
    if not plain:
        got = f"{name!r}, a {type(model).__name__}"
    elif model.cls_token is None:
        got = f"{name!r}, which has no class token"
    else:
        return
    fix = "Choose a model such as vit_base_patch16_224.dino or vit_base_patch14_dinov2.lvd142m."
    raise InputError(_KEY, got, fix, allowed="a plain ViT with a class token")


def _create(name: str, *, pretrained: bool) -> nn.Module:
    # The size of the image decides the grid; timm resamples the positions.
    return timm.create_model(name, pretrained=pretrained, num_classes=0, dynamic_img_size=True)


def _pretrained(name: str) -> nn.Module:
    try:
        return _create(name, pretrained=True)
    except Exception as error:  # timm, huggingface_hub and urllib each have their own kinds
        raise InputError(
            f"{_WEIGHTS_KEY} of {name!r}",
            f"'pretrained', but they cannot be had ({_reason(error)})",
            f"Download https://huggingface.co/timm/{name} elsewhere and name its model.safetensors.",
            allowed="weights that can be downloaded from here, a file, or '' for random weights",
        ) from error


def _seeded(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(_SEED)
        return _create(name, pretrained=False)


def _fill(model: nn.Module, path: Path) -> nn.Module:
    try:
        check_zip(path)
        state = timm.models.load_state_dict(str(path), weights_only=True)
        to_timms_names = next(names for family, names in _FAMILIES.items() if isinstance(model, family))
        missing, unexpected = model.load_state_dict(to_timms_names(state, model), strict=False)
    except Exception as error:  # a damaged file, or that of another model, can fail in any way
        raise _unusable(path, f"weights that this model cannot read ({_reason(error)})") from error
    fault = fault_in({name: value for name, value in state.items() if isinstance(value, torch.Tensor)})
    if fault:
        raise _unusable(path, fault)
    unexpected = [name for name in unexpected if not name.startswith(_NOT_TOKENS)]
    for label, names in (("missing", missing), ("too many", unexpected)):
        if names:
            shown = ", ".join(names[:_SHOWN]) + (" …" if len(names) > _SHOWN else "")
            raise _unusable(path, f"the weights of another model, {label}: {shown}")
    return model


def _unusable(path: Path, got: str) -> InputError:
    allowed = "a .safetensors file or a state dict of tensors alone, of the named model"
    return InputError(path, got, f"Name the model of the file in {_KEY}, or copy it again.", allowed=allowed)


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:160]
