"""Loading of CLIP models by name, with a report on every weight."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from open_clip.model import CLIP, CustomTextCLIP, convert_to_custom_text_state_dict
from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH
from torch import Tensor

from cliptrase_d2.clip.checkpoint import Checkpoint, read_checkpoint
from cliptrase_d2.clip.open_clip_modules import check_supported, set_pixel_statistics
from cliptrase_d2.clip.siglip import check_siglip, is_siglip2
from cliptrase_d2.clip.token_rows import expand_token_rows
from cliptrase_d2.clip.weights_folder import TRANSFORMERS_FILES
from cliptrase_d2.clip.weights_source import WeightsSource, find_tag, find_weights, get_model_config
from cliptrase_d2.utils.errors import InputError

logger = logging.getLogger(__name__)
_MAX_NAMES = 5  # in a message


@dataclass(frozen=True)
class LoadReport:
    """The origin of every weight.

    Attributes:
        name: the model.
        source: file and format, or the seed of random weights.
        quick_gelu: whether the activation is QuickGELU, not GELU.
        quick_gelu_reason: evidence for `quick_gelu`.
        random: names of weights with random values.
        loaded: number of tensors from the file.
        missing: weights of the model that the file lacks.
        unexpected: entries of the file that the model lacks.
        token_rows: "U of V" rows of the token embedding, if the file has only some rows. The others are zero.
        part: key and prefix of the weights in a file that has more than them.
        others: tensors of the file beside this part. They are not used.
        context: tokens of a prompt, where the file has more than the model of this name.
    """

    name: str
    source: str
    quick_gelu: bool
    quick_gelu_reason: str
    random: tuple[str, ...] = ()
    loaded: int = 0
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    token_rows: str = ""
    part: str = ""
    others: tuple[str, ...] = ()
    context: int = 0

    def __str__(self) -> str:
        lines = [f"CLIP {self.name}: {self.source}", f"  loaded: {self.loaded} tensors"]
        for label, names in (("missing", self.missing), ("unexpected", self.unexpected), ("random", self.random)):
            lines.append(f"  {label}: {len(names)}" + (f" ({_shorten(names)})" if names else ""))
        lines.append(f"  activation: {'QuickGELU' if self.quick_gelu else 'GELU'}, {self.quick_gelu_reason}")
        if self.part:
            lines.append(f"  part of the file: {self.part}")
        if self.others:
            lines.append(f"  not used: {len(self.others)} other tensors ({_shorten(self.others)})")
        if self.context:
            lines.append(f"  context: {self.context} tokens")
        if self.token_rows:
            lines.append(f"  token_embedding: {self.token_rows} rows, the others are zero")
        return "\n".join(lines)


def load_clip(
    name: str, pretrained: str, *, seed: int = 0, quick_gelu: bool = False, allow_siglip: bool = False
) -> tuple[CLIP, LoadReport]:
    """Build a frozen CLIP model, float32, on the CPU, in evaluation mode.

    Args:
        name: a plain ViT of open_clip, or the embedded model.
        pretrained: a tag of open_clip; a file or a folder, of OpenAI, open_clip or transformers; "hf-hub:owner/name",
            with "@revision" if one is to be pinned; or "" for random weights.
        seed: of all weights that the file lacks. The global random state is not changed.
        quick_gelu: the activation of random weights, unless the model's name has one.
        allow_siglip: whether the caller can use a SigLIP 2 as well.
    Raises:
        InputError: the model, the tag or the file cannot be used.
    """
    config = get_model_config(name)
    is_siglip = allow_siglip and is_siglip2(name, config)
    build_skeleton(name, allow_siglip=allow_siglip)  # rejects unsupported models before a download
    source = find_weights(name, pretrained)
    checkpoint = read_checkpoint(source.path, is_siglip=is_siglip) if source.path else None
    config["quick_gelu"], reason = _find_activation(config, source, checkpoint, quick_gelu and not is_siglip)
    context = 0
    if checkpoint:
        _adopt_image_size(config, checkpoint)
        context = _adopt_context(config, checkpoint)
    model = _build_seeded(config, seed)
    parameters = tuple(parameter for parameter, _ in model.named_parameters())
    report = LoadReport(name, f"random weights, seed {seed}", config["quick_gelu"], reason, parameters, context=context)
    if checkpoint and source.path:
        report = _fill(model, checkpoint, source.path, report)
    if "mean" in source.facts:
        set_pixel_statistics(model.visual, source.facts["mean"], source.facts["std"])
    if not report.loaded:
        logger.warning("%s\nRANDOM WEIGHTS: the output of this model is meaningless.", report)
    elif report.random or report.unexpected:
        logger.warning("%s\nThe file does not match the model in every weight.", report)
    elif report.others:
        logger.warning("%s\nOnly this part of the file is used.", report)
    else:
        logger.info("%s", report)
    return model.eval().requires_grad_(False), report


def build_skeleton(name: str, *, allow_siglip: bool = False) -> CLIP:
    """Build a CLIP model without weights, on the meta device, for its names and shapes.

    Args:
        name: of the model.
        allow_siglip: whether the caller can use a SigLIP 2 as well.
    Raises:
        InputError: the model is unknown or not supported.
    """
    config = get_model_config(name)
    with torch.device("meta"):
        model = _build(config)
    if allow_siglip and is_siglip2(name, config):
        check_siglip(model.visual, name)
    else:
        check_supported(model, name)
    return model


def build_clip(name: str, pretrained: str, *, quick_gelu: bool | None = None) -> tuple[CLIP, str]:
    """Build a frozen CLIP model for weights that the caller has. No weights file is read or downloaded.

    Args:
        name, pretrained: as in `load_clip`. A tag gives the activation and the normalisation of pixels.
        quick_gelu: the activation, if the caller knows it. Without a tag, QuickGELU is the default.
    Returns:
        The model with random weights, and the evidence for its activation.
    Raises:
        InputError: the model is unknown.
    """
    config, source = get_model_config(name), find_tag(name, pretrained)
    if quick_gelu is not None:
        config["quick_gelu"], reason = quick_gelu, "as the checkpoint records"
    else:
        config["quick_gelu"], reason = _find_activation(config, source or WeightsSource(None), None, True)
    model = _build_seeded(config, 0)
    if source and "mean" in source.facts:
        set_pixel_statistics(model.visual, source.facts["mean"], source.facts["std"])
    return model.eval().requires_grad_(False), reason


def _build(config: Mapping[str, Any]) -> CLIP:
    arguments = {key: value for key, value in config.items() if key != "custom_text"}
    return (CustomTextCLIP if config.get("custom_text") else CLIP)(**arguments)


def _build_seeded(config: Mapping[str, Any], seed: int) -> CLIP:
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would change the GPUs' generators too
        return _build(config)


def _find_activation(
    config: Mapping[str, Any], source: WeightsSource, checkpoint: Checkpoint | None, default: bool
) -> tuple[bool, str]:
    """Return whether the activation is QuickGELU, and the evidence. The wrong one silently costs accuracy.

    Args:
        default: the activation without any evidence, if there is no file.
    """
    if checkpoint and checkpoint.quick_gelu is not None:
        return checkpoint.quick_gelu, checkpoint.quick_gelu_reason
    if "quick_gelu" in source.facts:
        return bool(source.facts["quick_gelu"]), f"according to {source.reference}"
    if checkpoint and checkpoint.is_transformers and not config.get("quick_gelu", False):
        got = "weights of transformers without their config.json, which has the activation"
        fix = (
            f"Put config.json beside the file, and name the file {' or '.join(TRANSFORMERS_FILES)}. If the training "
            "started from OpenAI's weights, a model with the ending -quickgelu also works."
        )
        raise InputError(source.path, got, fix)
    if checkpoint is None and "quick_gelu" not in config:
        return default, "the default, without a tag or a record in the file"
    quick_gelu = bool(config.get("quick_gelu", False))
    if checkpoint is None:
        return quick_gelu, "according to the model's name"
    other = "without" if quick_gelu else "with"
    reason = f"a name {other} '-quickgelu' selects the other. The file has no information"
    return quick_gelu, f"according to the model's name; {reason}"


def _adopt_image_size(config: dict[str, Any], checkpoint: Checkpoint) -> None:
    """Build the model with the file's grid. The position embedding is resized later, for each image."""
    position = checkpoint.tensors.get("visual.positional_embedding")
    rows = len(position) if position is not None and position.ndim else 0
    side = math.isqrt(max(0, rows - 1))
    if side and 1 + side**2 == rows:
        config["vision_cfg"]["image_size"] = side * config["vision_cfg"]["patch_size"]


def _adopt_context(config: dict[str, Any], checkpoint: Checkpoint) -> int:
    """Build the model with the file's context, if it is longer, as in Long-CLIP. Return its tokens, or 0."""
    position = checkpoint.tensors.get("positional_embedding", checkpoint.tensors.get("text.positional_embedding"))
    rows = len(position) if position is not None and position.ndim else 0
    if rows <= config["text_cfg"].get("context_length", DEFAULT_CONTEXT_LENGTH):
        return 0
    config["text_cfg"]["context_length"] = rows
    return rows


def _fill(model: CLIP, checkpoint: Checkpoint, path: Path, report: LoadReport) -> LoadReport:
    """Copy the weights into the model."""
    tensors = checkpoint.tensors
    if isinstance(model, CustomTextCLIP):
        tensors = convert_to_custom_text_state_dict(tensors)
    state = model.state_dict()
    tensors, token_rows = expand_token_rows(tensors, state, path)
    for name, value in state.items():
        if name in tensors and tensors[name].numel() == value.numel() == 1:
            tensors[name] = tensors[name].reshape(value.shape)  # logit_scale has shape [1] in some files
    _check_architecture(state, tensors, path)
    keys = model.load_state_dict(tensors, strict=False)
    missing = tuple(keys.missing_keys)
    return replace(
        report,
        source=f"{path} ({checkpoint.format})",
        random=missing,
        loaded=len(state) - len(missing),
        missing=missing,
        unexpected=(*keys.unexpected_keys, *checkpoint.ignored),
        token_rows=token_rows,
        part=checkpoint.part,
        others=checkpoint.others,
    )


def _check_architecture(state: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise if blocks are missing or shapes differ. Other missing weights are only reported."""
    pairs = [(name, value, state[name]) for name, value in tensors.items() if name in state]
    file_blocks, model_blocks = _block_names(tensors), _block_names(state)
    differences = {
        "other shapes": [f"{n} {list(a.shape)}, not {list(b.shape)}" for n, a, b in pairs if a.shape != b.shape],
        "other dtypes": [f"{n} {a.dtype}" for n, a, b in pairs if a.is_floating_point() != b.is_floating_point()],
        "missing": sorted(model_blocks - file_blocks),
        "too many": sorted(file_blocks - model_blocks),
    }
    if text := "; ".join(f"{label}: {_shorten(names)}" for label, names in differences.items() if names):
        fix = f"Name the model that the file belongs to. It contains {_shorten(tensors)}."
        raise InputError(path, f"weights of another model; {text}", fix)


def _block_names(names: Iterable[str]) -> set[str]:
    return {name[: match.end()] for name in names if (match := re.match(r".*(resblocks|trunk\.blocks)\.\d+", name))}


def _shorten(names: Collection[str]) -> str:
    more = len(names) - _MAX_NAMES
    return ", ".join(islice(names, _MAX_NAMES)) + (f" and {more} more" if more > 0 else "")
