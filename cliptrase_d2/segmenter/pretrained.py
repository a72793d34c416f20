"""Pretrained weights of CLIP: default tags, cached files and download notices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from cliptrase_d2.clip import embedded
from cliptrase_d2.utils.errors import InputError, suggest

Options: TypeAlias = Sequence[str] | Mapping[str, Any]
EMBEDDED = "emoji"  # short name of the model in this package
_PREFERRED_TAGS = ("openai", "laion2b_s34b_b88k", "laion2b_s32b_b82k", "laion2b_s32b_b79k", "laion2b_s34b_b79k")


def default_tag(name: str, where: str = "--model") -> str:
    """Return the default weights of a model: OpenAI's if available, then LAION's, then the first in open_clip.

    Args:
        name: of the model.
        where: argument that has the name, for errors.
    Raises:
        InputError: open_clip has no weights for this model.
    """
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(name.replace("/", "-"))
    if not tags:
        fix = suggest(name, [EMBEDDED, *open_clip.list_models()], "Choose one of these, or name a file of weights.")
        allowed = f"{EMBEDDED}, or a model with weights in open_clip such as ViT-B-16, ViT-L-14 or ViT-H-14"
        raise InputError(where, f"{name!r} has no weights in open_clip", fix, allowed=allowed)
    return next((tag for tag in _PREFERRED_TAGS if tag in tags), tags[0])


def model_options(name: str, pretrained: str | None = None, where: str = "--model") -> list[str]:
    """Return KEY, VALUE, … of the configuration for a model.

    Args:
        name: "emoji", or a ViT of open_clip.
        pretrained: tag, file, folder or repository of the weights; None for ``default_tag``.
        where: argument that has the name, for errors.
    Raises:
        InputError: open_clip has no weights for this model.
    """
    if name in (EMBEDDED, embedded.NAME):
        sizes = ["INPUT.MIN_SIZE_TEST", "112", "INPUT.MAX_SIZE_TEST", "448"]
        return ["MODEL.CLIP.NAME", embedded.NAME, "MODEL.CLIP.PRETRAINED", embedded.TAG, *sizes]
    return ["MODEL.CLIP.NAME", name, "MODEL.CLIP.PRETRAINED", pretrained or default_tag(name, where)]


def list_options(
    opts: Options,
    device: str | None = None,
    method: str | None = None,
    protocol: str | None = None,
    method_options: Mapping[str, Any] | None = None,
) -> list[str]:
    """Return KEY, VALUE, … of the configuration.

    Args:
        opts: keys and values, in a dict or alternating in a sequence. Values in a dict may be no text.
        device, method, protocol: values of common keys; None to omit them. ``opts`` takes precedence.
        method_options: of the method, by name.
    """
    named: dict[str, Any] = {"MODEL.DEVICE": device, "MODEL.CLIPTRASE.METHOD": method, "TEST.PROTOCOL": protocol}
    named |= {f"MODEL.CLIPTRASE.METHOD_OPTIONS.{name}": value for name, value in (method_options or {}).items()}
    words = [word for key, value in named.items() if value is not None for word in (key, str(value))]
    if not isinstance(opts, Mapping):
        return [*words, *opts]
    texts = {key: value if isinstance(value, str) else repr(value) for key, value in opts.items()}
    return [*words, *(word for pair in texts.items() for word in pair)]


def find_cached_weights(name: str, tag: str) -> Path | None:
    """Return the local file of the weights, from Hugging Face's or OpenAI's cache; None if not downloaded yet."""
    from open_clip.pretrained import get_pretrained_cfg

    from cliptrase_d2.clip import download

    return download.find_cached_weights(get_pretrained_cfg(name.replace("/", "-"), tag))


def download_size(name: str) -> float:
    """Estimate the size of a model's weights in megabytes: four bytes per parameter."""
    import torch
    from open_clip.model import CLIP, CustomTextCLIP

    from cliptrase_d2.clip.weights_source import get_model_config

    config = get_model_config(name)
    build = CustomTextCLIP if config.pop("custom_text", False) else CLIP
    with torch.device("meta"):  # allocates no memory
        model = build(**config)
    return 4 * sum(parameter.numel() for parameter in model.parameters()) / 1e6


def describe_download(name: str, tag: str) -> str:
    """Return a notice about the download that loading these weights will start; "" if it starts none."""
    from open_clip.pretrained import is_pretrained_cfg

    if name == embedded.NAME or not is_pretrained_cfg(name.replace("/", "-"), tag) or find_cached_weights(name, tag):
        return ""
    return f"Downloading the weights {tag!r} of {name} (about {download_size(name):.0f} MB). This happens only once."
