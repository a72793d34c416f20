"""Which model and which weights the user means."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import open_clip

from cliptrase_d2.clip import embedded
from cliptrase_d2.clip.checkpoint import FORMATS
from cliptrase_d2.utils.errors import InputError

CONFIG_BESIDE = "open_clip_config.json"


@dataclass(frozen=True)
class Source:
    """Where weights come from and what is known about them besides their numbers.

    Attributes:
        path: the file; None for random weights.
        facts: may hold "quick_gelu", "mean" and "std", of the training.
        said_by: who says so.
    """

    path: Path | None
    facts: dict[str, Any] = field(default_factory=dict)
    said_by: str = ""


def model_config(name: str) -> dict[str, Any]:
    """open_clip's configuration of a model, or that of the embedded one, a copy.

    Raises:
        InputError: open_clip does not know the name, or a tower of the model is not open_clip's own.
    """
    embedded.register()
    names = open_clip.list_models()
    clean = name.replace("/", "-")  # OpenAI writes ViT-B/16
    if clean not in names:
        raise InputError(
            "MODEL.CLIP.NAME",
            f"the name {name!r}",
            _closest(clean, names),
            allowed=f"a ViT from open_clip.list_models(), or {embedded.NAME!r}, a part of this package",
        )
    config = open_clip.get_model_config(clean)
    foreign = config["vision_cfg"].get("timm_model_name") or config["text_cfg"].get("hf_model_name")
    if foreign or "multimodal_cfg" in config:
        raise InputError(
            f"CLIP model {name!r}",
            f"towers from another library ({foreign})" if foreign else "a captioning model (CoCa)",
            "Choose a model such as ViT-B-32, ViT-B-16, ViT-L-14, ViT-L-14-336 or ViT-H-14.",
            allowed="open_clip's own plain ViT and text transformer",
        )
    return config


def find_source(name: str, pretrained: str) -> Source:
    """Tell a tag from a file, and fetch the weights of a tag; those of the embedded model are here already.

    Args:
        name: a model name of open_clip, or the embedded model's.
        pretrained: "", a tag of this model, or a file.
    Raises:
        InputError: neither a tag nor a file, the download failed, or the installation is incomplete.
    """
    if not pretrained:
        return Source(None)
    clean = name.replace("/", "-")
    if (clean, pretrained) == (embedded.NAME, embedded.TAG):
        return Source(embedded.weights(), dict(embedded.FACTS), "this package")
    tag = open_clip.get_pretrained_cfg(clean, pretrained)
    if tag:
        facts = {"quick_gelu": False, **tag}  # a tag that does not mention it was trained with plain GELU
        return Source(_download(tag, clean, pretrained), facts, f"open_clip's tag {pretrained!r}")
    path = Path(pretrained).expanduser()
    if path.exists():
        return Source(path, *_facts_beside(path))
    tags = [embedded.TAG] if clean == embedded.NAME else open_clip.list_pretrained_tags_by_model(clean)
    looks_like_path = path.suffix or len(path.parts) > 1
    raise InputError(
        f"MODEL.CLIP.PRETRAINED of {clean}",
        f"{pretrained!r}, which is {'no file here' if looks_like_path else 'neither a tag nor a file'}",
        "Check the path." if looks_like_path else _closest(pretrained, tags),
        allowed=f"a tag ({', '.join(tags) or 'open_clip has none for this model'}), a file, or '' for random weights",
    )


def _download(tag: dict[str, Any], name: str, pretrained: str) -> Path:
    try:
        return Path(open_clip.download_pretrained(tag))
    except Exception as error:  # urllib, huggingface_hub and open_clip each have their own kinds
        place = tag.get("url") or f"https://huggingface.co/{tag.get('hf_hub', '').rstrip('/')}"
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(
            f"weights {pretrained!r} of CLIP model {name!r}",
            f"a failed download ({reason[:160]})",
            f"Download {place} on a machine with access and pass the file instead of the tag.",
            allowed=f"a tag that can be downloaded from here, or a file: {FORMATS}",
        ) from error


def _facts_beside(path: Path) -> tuple[dict[str, Any], str]:
    """Hugging Face keeps a model's configuration beside its weights; the weights alone do not tell the activation."""
    beside = path.parent / CONFIG_BESIDE
    if not beside.is_file():
        return {}, ""
    try:
        content = json.loads(beside.read_text(encoding="utf-8"))
        facts = {"quick_gelu": content["model_cfg"].get("quick_gelu", False)}
        facts.update({key: content["preprocess_cfg"][key] for key in ("mean", "std")})
        _check_facts(**facts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            beside,
            f"no model configuration ({type(error).__name__}: {error})",
            "Move the weights away from this file, or download it again.",
            allowed="what open_clip saves beside its weights",
        ) from error
    return facts, f"{CONFIG_BESIDE} beside the file"


def _check_facts(quick_gelu: object, mean: object, std: object) -> None:
    if not isinstance(quick_gelu, bool):
        raise TypeError(f"quick_gelu is {quick_gelu!r}, neither true nor false")
    for name, value in (("mean", mean), ("std", std)):
        numbers = value if isinstance(value, list) and len(value) == 3 else [None]
        if not all(isinstance(n, int | float) and math.isfinite(n) and (n > 0 or name == "mean") for n in numbers):
            raise ValueError(f"{name} is {str(value)[:60]}, not three numbers")


def _closest(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(names), n=3, cutoff=0.4)
    return f"Did you mean {' or '.join(close)}?" if close else "Check the spelling."
