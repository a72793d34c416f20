"""Model configurations and weights files, found by model name and pretrained tag."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import open_clip

from cliptrase_d2.clip import embedded, model_configs
from cliptrase_d2.clip.download import fetch_weights, weights_address
from cliptrase_d2.clip.foreign_models import suggest_supported
from cliptrase_d2.clip.hub import PREFIX, fetch_repository
from cliptrase_d2.clip.siglip import is_siglip2
from cliptrase_d2.clip.weights_folder import choose_file, is_transformers_file
from cliptrase_d2.utils.errors import InputError, first_line, suggest


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
        name: a ViT or a SigLIP 2 of `open_clip.list_models()`, or the embedded model.
    Raises:
        InputError: unknown name, or another model with a tower from another library.
    """
    embedded.register()
    names, clean = open_clip.list_models(), name.replace("/", "-")  # OpenAI writes ViT-B/16
    if clean not in names:
        allowed = f"a ViT of open_clip.list_models(), or {embedded.NAME!r}"
        fix = suggest(clean, names)
        if name.startswith(PREFIX):
            fix = "Put the repository into MODEL.CLIP.PRETRAINED (--pretrained), and name its model here."
        raise InputError("name", f"unknown CLIP model {name!r}", fix, allowed)
    config = open_clip.get_model_config(clean)
    foreign = config["vision_cfg"].get("timm_model_name") or config["text_cfg"].get("hf_model_name")
    if is_siglip2(clean, config):
        return config
    if foreign or "multimodal_cfg" in config:
        reason = f"has a tower from another library ({foreign})" if foreign else "is a captioning model (CoCa)"
        raise InputError("name", f"CLIP model {name!r} {reason}", suggest_supported(clean, later=True))
    return config


def find_weights(name: str, pretrained: str) -> WeightsSource:
    """Find the weights of a tag, a file, a folder or a repository. They are downloaded if necessary.

    Args:
        name: a model of open_clip, or the embedded model.
        pretrained: a tag of this model, a file, a folder of open_clip or transformers, "hf-hub:owner/name" or
            "hf-hub:owner/name@revision", or "" for random weights.
    Raises:
        InputError: none of these, the weights of another model, a failed download, or an incomplete installation.
    """
    if not pretrained:
        return WeightsSource(None)
    clean = name.replace("/", "-")
    if known := find_tag(name, pretrained):
        is_embedded = (clean, pretrained) == (embedded.NAME, embedded.TAG)
        return replace(known, path=embedded.get_weights_file() if is_embedded else _download(clean, pretrained))
    path = fetch_repository(pretrained) if pretrained.startswith(PREFIX) else Path(pretrained).expanduser()
    if path.is_dir():
        path /= choose_file(path, [file.name for file in path.iterdir()])
    if path.exists():
        return WeightsSource(path, *_read_facts(path, name))
    tags = [embedded.TAG] if clean == embedded.NAME else open_clip.list_pretrained_tags_by_model(clean)
    is_path = path.suffix or len(path.parts) > 1
    got = f"no such file: {pretrained!r}" if is_path else f"{pretrained!r} is neither a tag of {clean} nor a file"
    fix = "Check the path." if is_path else suggest(pretrained, tags)
    if is_path and len(path.parts) == 2:
        fix = f"Check the path, or write {PREFIX}{pretrained} for a repository of the Hugging Face Hub."
    allowed = ", ".join([*tags, "a file", "a folder", f"{PREFIX}owner/name", "or '' for random weights"])
    raise InputError("pretrained", got, fix, allowed)


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


def _read_facts(path: Path, name: str) -> tuple[dict[str, Any], str]:
    """Return the facts of a configuration in the same folder, and the name of their source.

    The weights alone do not reveal the activation.
    """
    hub, transformers = path.parent / model_configs.OPEN_CLIP, path.parent / model_configs.TRANSFORMERS
    if is_transformers_file(path.name) and transformers.is_file():
        return model_configs.read_transformers_config(transformers, name), f"{transformers.name} in the same folder"
    if hub.is_file():
        return model_configs.read_open_clip_config(hub, name), f"{hub.name} in the same folder"
    return {}, ""
