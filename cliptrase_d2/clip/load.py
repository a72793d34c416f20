"""CLIP by name, with weights from a tag, from a file, or seeded random ones, and a report of what came from where."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from open_clip.model import CLIP, CustomTextCLIP, convert_to_custom_text_state_dict
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from cliptrase_d2.clip.checkpoint import Checkpoint, read_checkpoint
from cliptrase_d2.clip.open_clip_modules import check_supported, set_pixel_statistics
from cliptrase_d2.clip.token_rows import expand_token_rows
from cliptrase_d2.clip.weights_source import Source, find_source, model_config
from cliptrase_d2.utils.errors import InputError

logger = logging.getLogger(__name__)
_SHOWN = 5  # names in a message


@dataclass(frozen=True)
class LoadReport:
    """What became of every weight.

    Attributes:
        name: the model.
        source: file and format, or how the random weights were made.
        loaded: number of tensors taken from the file.
        missing: names that the model has and the file has not.
        unexpected: names that the file has and the model has no place for.
        random: names whose numbers come from no file.
        quick_gelu: whether the activation is QuickGELU; else it is GELU.
        quick_gelu_reason: why.
        token_rows: "U of V" rows of the token embedding, where the file holds only some and the others are zero.
    """

    name: str
    source: str
    loaded: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    random: tuple[str, ...]
    quick_gelu: bool
    quick_gelu_reason: str
    token_rows: str = ""

    def __str__(self) -> str:
        lines = [f"CLIP {self.name}: {self.source}", f"  loaded: {self.loaded} tensors"]
        for label, names in (("missing", self.missing), ("unexpected", self.unexpected), ("random", self.random)):
            lines.append(f"  {label}: {len(names)}" + (f" ({_some(names)})" if names else ""))
        lines.append(f"  activation: {'QuickGELU' if self.quick_gelu else 'GELU'}, {self.quick_gelu_reason}")
        if self.token_rows:
            lines.append(f"  token_embedding: {self.token_rows} rows, the others are zero")
        return "\n".join(lines)


def load_clip(name: str, pretrained: str, *, seed: int = 0) -> tuple[CLIP, LoadReport]:
    """Build a frozen CLIP model, float32, on the CPU, in evaluation mode.

    Args:
        name: a plain ViT of open_clip.
        pretrained: a tag of open_clip, a file (OpenAI's JIT archive, open_clip's .pt/.bin/.safetensors), or ""
            for random weights.
        seed: of all weights that no file gives. The global random state stays as it is.
    Raises:
        InputError: the model, the tag or the file cannot be used.
    """
    config = model_config(name)
    with torch.device("meta"):  # costs nothing, so an unfit model is refused before anything is downloaded
        check_supported(_build(config), name)
    source = find_source(name, pretrained)
    checkpoint = read_checkpoint(source.path) if source.path else None
    quick_gelu, reason = _activation(config, source, checkpoint)
    config["quick_gelu"] = quick_gelu
    if checkpoint:
        _adopt_image_size(config, checkpoint)
    model = _build_seeded(config, seed)
    loaded, missing, unexpected, token_rows = _fill(model, checkpoint, source) if checkpoint else (0, (), (), "")
    if "mean" in source.facts:
        set_pixel_statistics(model.visual, source.facts["mean"], source.facts["std"])
    report = LoadReport(
        name=name,
        source=f"{source.path} ({checkpoint.format})" if checkpoint else f"random weights, seed {seed}",
        loaded=loaded,
        missing=missing,
        unexpected=unexpected,
        random=missing if checkpoint else tuple(parameter for parameter, _ in model.named_parameters()),
        quick_gelu=quick_gelu,
        quick_gelu_reason=reason,
        token_rows=token_rows,
    )
    _log(report)
    return model.eval().requires_grad_(False), report


def get_tokenizer(name: str) -> SimpleTokenizer:
    """The tokenizer of a model; a part of open_clip, so nothing is downloaded.

    Raises:
        InputError: the model has a tokenizer of its own on the Hugging Face hub.
    """
    text = model_config(name)["text_cfg"]
    if text.get("hf_tokenizer_name"):
        raise InputError(
            f"CLIP model {name!r}",
            f"the tokenizer {text['hf_tokenizer_name']!r} of another library",
            "Choose a model such as ViT-B-16, ViT-L-14 or ViT-H-14.",
            allowed="CLIP's own tokenizer",
        )
    return SimpleTokenizer(context_length=text.get("context_length", 77), **text.get("tokenizer_kwargs", {}))


def _build(config: dict[str, Any]) -> CLIP:
    arguments = {key: value for key, value in config.items() if key != "custom_text"}
    return (CustomTextCLIP if config.get("custom_text") else CLIP)(**arguments)


def _build_seeded(config: dict[str, Any], seed: int) -> CLIP:
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach the GPUs' generators too
        return _build(config)


def _activation(config: dict[str, Any], source: Source, checkpoint: Checkpoint | None) -> tuple[bool, str]:
    """Whether QuickGELU, and why: the wrong one costs accuracy without any other sign."""
    if checkpoint and checkpoint.quick_gelu is not None:
        return checkpoint.quick_gelu, checkpoint.quick_gelu_reason
    if "quick_gelu" in source.facts:
        return bool(source.facts["quick_gelu"]), f"says {source.said_by}"
    named = bool(config.get("quick_gelu", False))
    if checkpoint is None:
        return named, "as the model's name says"
    other = "without" if named else "with"
    return named, f"as the model's name says, for the file does not (a name {other} '-quickgelu' means the other)"


def _adopt_image_size(config: dict[str, Any], checkpoint: Checkpoint) -> None:
    """Build the grid that the file was trained for; it is resized where it is used."""
    position = checkpoint.tensors.get("visual.positional_embedding")
    rows = len(position) if position is not None and position.ndim else 0
    side = math.isqrt(max(0, rows - 1))
    if side and 1 + side**2 == rows:
        config["vision_cfg"]["image_size"] = side * config["vision_cfg"]["patch_size"]


def _fill(model: CLIP, checkpoint: Checkpoint, source: Source) -> tuple[int, tuple[str, ...], tuple[str, ...], str]:
    """Copy the weights into the model.

    Returns:
        How many were copied, the names that were missing, the names that were unexpected, and the report's
        `token_rows`.
    """
    tensors = checkpoint.tensors
    if isinstance(model, CustomTextCLIP):
        tensors = convert_to_custom_text_state_dict(tensors)
    wanted = model.state_dict()
    tensors, token_rows = expand_token_rows(tensors, wanted, source.path)
    tensors = {name: _scalar_like(value, wanted.get(name)) for name, value in tensors.items()}
    _refuse_other_architecture(wanted, tensors, source)
    known = {name: value for name, value in tensors.items() if name in wanted}
    model.load_state_dict(known, strict=False)
    missing = tuple(name for name in wanted if name not in tensors)
    unexpected = tuple(name for name in tensors if name not in wanted)
    return len(known), missing, unexpected + checkpoint.ignored, token_rows


def _scalar_like(value: Tensor, wanted: Tensor | None) -> Tensor:
    """logit_scale is a scalar in some files and a vector of one in others."""
    return value.reshape(wanted.shape) if wanted is not None and value.numel() == wanted.numel() == 1 else value


def _refuse_other_architecture(wanted: dict[str, Tensor], tensors: dict[str, Tensor], source: Source) -> None:
    """A single absent weight is reported; another number of blocks, or another size, means another model."""
    shapes = [
        f"{name} {list(tensors[name].shape)}, not {list(value.shape)}"
        for name, value in wanted.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    kinds = [
        f"{name} {value.dtype}".replace("torch.", "")
        for name, value in tensors.items()
        if name in wanted and value.is_floating_point() != wanted[name].is_floating_point()
    ]
    have, want = _blocks(tensors), _blocks(wanted)
    absent, too_many = sorted(want - have), sorted(have - want)
    if shapes or kinds or absent or too_many:
        found = [
            ("of another shape", shapes),
            ("of another kind of numbers", kinds),
            ("missing", absent),
            ("too many", too_many),
        ]
        raise InputError(
            source.path,
            "the weights of another model; " + "; ".join(f"{label}: {_some(names)}" for label, names in found if names),
            f"Name the model that the file belongs to. It holds {_some(list(tensors))}.",
            allowed="a checkpoint of the named CLIP model",
        )


def _blocks(names: Iterable[str]) -> set[str]:
    """The residual blocks that the named weights belong to."""
    return {name[: match.end()] for name in names if (match := re.match(r".*resblocks\.\d+", name))}


def _log(report: LoadReport) -> None:
    if report.loaded == 0:
        logger.warning("%s\nRANDOM WEIGHTS: whatever this model says about an image means nothing.", report)
    elif report.random or report.unexpected:
        logger.warning("%s\nThe file and the model do not match in every weight.", report)
    else:
        logger.info("%s", report)


def _some(names: list[str] | tuple[str, ...]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
