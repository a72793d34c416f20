"""Which weights a model name means, whether they are here, and what to say about it before they are fetched."""

from __future__ import annotations

from pathlib import Path

from cliptrase_d2.clip import embedded
from cliptrase_d2.utils.errors import InputError

EMBEDDED = "emoji"  # what users call the model that is part of this package
_FAVOURITES = ("openai", "laion2b_s34b_b88k", "laion2b_s32b_b82k", "laion2b_s32b_b79k", "laion2b_s34b_b79k")


def default_tag(name: str) -> str:
    """The tag of a model's weights where the user names none: OpenAI's, else LAION's, else the first.

    Raises:
        InputError: open_clip has no weights for a model of this name.
    """
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(name.replace("/", "-"))
    if not tags:
        allowed = f"{EMBEDDED!r}, or a model with weights in open_clip such as ViT-B-16, ViT-L-14 or ViT-H-14"
        raise InputError("--model", repr(name), "Choose one of these, or give --pretrained FILE.", allowed=allowed)
    return next((tag for tag in _FAVOURITES if tag in tags), tags[0])


def model_options(name: str, pretrained: str | None = None) -> list[str]:
    """KEY, VALUE, … of the configuration for a model as users name it.

    Args:
        name: "emoji", or a ViT of open_clip.
        pretrained: tag or file of its weights; None for those of ``default_tag``.
    Raises:
        InputError: open_clip has no weights for a model of this name.
    """
    if name in (EMBEDDED, embedded.NAME):
        sizes = ["INPUT.MIN_SIZE_TEST", "112", "INPUT.MAX_SIZE_TEST", "448"]
        return ["MODEL.CLIP.NAME", embedded.NAME, "MODEL.CLIP.PRETRAINED", embedded.TAG, *sizes]
    return ["MODEL.CLIP.NAME", name, "MODEL.CLIP.PRETRAINED", pretrained or default_tag(name)]


def cached_weights(name: str, tag: str) -> Path | None:
    """Where open_clip would find the weights without a download: Hugging Face's cache, or that of OpenAI's files."""
    from huggingface_hub import try_to_load_from_cache
    from open_clip.pretrained import get_pretrained_cfg

    source = get_pretrained_cfg(name.replace("/", "-"), tag)
    repository = source.get("hf_hub", "").strip("/")
    for file in ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"):
        found = try_to_load_from_cache(repository, file) if repository else None
        if isinstance(found, str):
            return Path(found)
    old = Path("~/.cache/clip").expanduser() / Path(source.get("url", "none")).name
    return old if old.is_file() else None


def download_size(name: str) -> float:
    """About how many megabytes the weights of a model are: four bytes for each of its parameters."""
    import torch
    from open_clip.model import CLIP, CustomTextCLIP

    from cliptrase_d2.clip.weights_source import model_config

    config = model_config(name)
    build = CustomTextCLIP if config.pop("custom_text", False) else CLIP
    with torch.device("meta"):  # takes no memory
        model = build(**config)
    return 4 * sum(parameter.numel() for parameter in model.parameters()) / 1e6


def describe_download(name: str, tag: str) -> str:
    """A sentence for a first run; "" where nothing is fetched."""
    from open_clip.pretrained import is_pretrained_cfg

    if name == embedded.NAME or not is_pretrained_cfg(name.replace("/", "-"), tag) or cached_weights(name, tag):
        return ""
    size = download_size(name)
    return f"The weights {tag!r} of {name} are not here yet: open_clip fetches them now, some {size:.0f} MB, once."
