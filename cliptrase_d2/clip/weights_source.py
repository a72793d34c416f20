"""Model configurations and weights files, found by model name and pretrained tag."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import open_clip

from cliptrase_d2.clip import embedded
from cliptrase_d2.clip.download import fetch_weights, weights_address
from cliptrase_d2.clip.open_clip_modules import SUPPORTED_MODELS
from cliptrase_d2.utils.errors import InputError, first_line, suggest

HUB_CONFIG = "open_clip_config.json"


@dataclass(frozen=True)
class WeightsSource:
    """A weights file and the known facts of its training.

    Attributes:
        path: the file; None for random weights.
        facts: may contain "quick_gelu", "mean" and "std".
        reference: where the facts are documented.
    """

    path: Path | None
    facts: Mapping[str, Any] = field(default_factory=dict)
    reference: str = ""


def get_model_config(name: str) -> dict[str, Any]:
    """Return a copy of a model's open_clip configuration.

    Args:
        name: a ViT of `open_clip.list_models()`, or the embedded model.
    Raises:
        InputError: unknown name, or a model with a tower from another library.
    """
    embedded.register()
    names, clean = open_clip.list_models(), name.replace("/", "-")  # OpenAI writes ViT-B/16
    if clean not in names:
        allowed = f"a ViT of open_clip.list_models(), or {embedded.NAME!r}"
        raise InputError("name", f"unknown CLIP model {name!r}", suggest(clean, names), allowed)
    config = open_clip.get_model_config(clean)
    foreign = config["vision_cfg"].get("timm_model_name") or config["text_cfg"].get("hf_model_name")
    if foreign or "multimodal_cfg" in config:
        reason = f"has a tower from another library ({foreign})" if foreign else "is a captioning model (CoCa)"
        raise InputError("name", f"CLIP model {name!r} {reason}", SUPPORTED_MODELS)
    return config


def find_weights(name: str, pretrained: str) -> WeightsSource:
    """Find the weights of a tag or a file. The weights of a tag are downloaded if necessary.

    Args:
        name: a model of open_clip, or the embedded model.
        pretrained: a tag of this model, a file, or "" for random weights.
    Raises:
        InputError: neither a tag nor a file, a failed download, or an incomplete installation.
    """
    if not pretrained:
        return WeightsSource(None)
    clean = name.replace("/", "-")
    if known := find_tag(name, pretrained):
        is_embedded = (clean, pretrained) == (embedded.NAME, embedded.TAG)
        return replace(known, path=embedded.get_weights_file() if is_embedded else _download(clean, pretrained))
    path = Path(pretrained).expanduser()
    if path.exists():
        return WeightsSource(path, *_read_hub_config(path))
    tags = [embedded.TAG] if clean == embedded.NAME else open_clip.list_pretrained_tags_by_model(clean)
    is_path = path.suffix or len(path.parts) > 1
    got = f"no such file: {pretrained!r}" if is_path else f"{pretrained!r} is neither a tag of {clean} nor a file"
    fix = "Check the path." if is_path else suggest(pretrained, tags)
    raise InputError("pretrained", got, fix, ", ".join([*tags, "a file", "or '' for random weights"]))


def find_tag(name: str, pretrained: str) -> WeightsSource | None:
    """Return the facts of a tag, without its file; None if the model has no such tag. Nothing is downloaded."""
    clean = name.replace("/", "-")
    if (clean, pretrained) == (embedded.NAME, embedded.TAG):
        return WeightsSource(None, embedded.FACTS, "this package")
    if tag := open_clip.get_pretrained_cfg(clean, pretrained):
        facts = {"quick_gelu": False, **tag}  # a tag without this entry was trained with GELU
        return WeightsSource(None, facts, f"open_clip's tag {pretrained!r}")
    return None


def _download(name: str, pretrained: str) -> Path:
    tag = dict(open_clip.get_pretrained_cfg(name, pretrained))
    try:
        return fetch_weights(tag)
    except Exception as error:  # urllib, huggingface_hub and open_clip raise errors of their own
        address = tag.get("url") or weights_address(tag)
        fix = f"Check the connection, or download {address} on another machine and pass the file instead of the tag."
        got = f"failed to download {pretrained!r} of {name} ({first_line(error)})"
        raise InputError("pretrained", got, fix) from error


def _read_hub_config(weights: Path) -> tuple[dict[str, Any], str]:
    """Return the facts of a Hugging Face configuration in the same folder, and the name of their source.

    The weights alone do not reveal the activation.
    """
    path = weights.parent / HUB_CONFIG
    if not path.is_file():
        return {}, ""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        facts = {"quick_gelu": content["model_cfg"].get("quick_gelu", False)}
        facts |= {key: content["preprocess_cfg"][key] for key in ("mean", "std")}
        _check_facts(**facts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        got = f"invalid model configuration ({type(error).__name__}: {error})"
        raise InputError(path, got, "Download this file again, or move the weights to another folder.") from error
    return facts, f"{HUB_CONFIG} in the same folder"


def _check_facts(quick_gelu: object, mean: object, std: object) -> None:
    if not isinstance(quick_gelu, bool):
        raise TypeError(f"quick_gelu is {quick_gelu!r}, not true or false")
    for name, value in (("mean", mean), ("std", std)):
        numbers = value if isinstance(value, list) and len(value) == 3 else [None]
        if not all(isinstance(n, int | float) and math.isfinite(n) and (n > 0 or name == "mean") for n in numbers):
            raise ValueError(f"{name} is {str(value)[:60]}, not three numbers")
