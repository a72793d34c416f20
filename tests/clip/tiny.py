"""A CLIP model small enough to build in a test, and its weights in several file formats."""

import copy
import json
import warnings
from collections.abc import Iterable
from pathlib import Path

import open_clip
import torch
from open_clip.model import CLIP
from torch import Tensor, nn

from cliptrase_d2.clip.open_clip_modules import text_tower
from tools.emoji_clip.token_rows import sparse_state_dict

TINY_CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"layers": 3, "width": 64, "head_width": 16, "patch_size": 16, "image_size": 64},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


def tiny_clip(seed: int = 0, **config: object) -> CLIP:
    """Build three image blocks of 4 heads, 4×4 patches; two text blocks; random weights; evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIP(**{**TINY_CONFIG, **config})
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # zero by default, which would hide a forgotten bias
                nn.init.normal_(parameter, std=0.1)
    return model.eval().requires_grad_(False)


def register_tiny(folder: Path, name: str = "tiny-vit", **config: object) -> str:
    """Register the tiny model with open_clip. Return its name."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps({**TINY_CONFIG, **config}))
    open_clip.add_model_config(path)
    return name


def sparse_state(model: CLIP, token_ids: Iterable[int]) -> dict[str, Tensor]:
    """Return the sparse weights of a model that was trained on these tokens only."""
    ids = torch.tensor(sorted(set(token_ids)))
    sparse = copy.deepcopy(model)
    tower = text_tower(sparse)
    tower.token_embedding = nn.Embedding.from_pretrained(tower.token_embedding.weight[ids])
    return sparse_state_dict(sparse, ids)


def openai_state(model: CLIP) -> dict[str, Tensor]:
    """Return the weights with the three extra entries of OpenAI's own state dicts."""
    extra = {"input_resolution": 64, "context_length": 77, "vocab_size": 49408}
    return {**model.state_dict(), **{name: torch.tensor(value) for name, value in extra.items()}}


def save_openai_archive(model: CLIP, path: Path) -> None:
    """Write a TorchScript archive in OpenAI's layout: half-precision weights under CLIP's names."""
    root = nn.Module()
    for name, value in openai_state(model).items():
        *parents, leaf = name.split(".")
        module = root
        for parent in parents:
            if not hasattr(module, parent):
                module.add_module(parent, nn.Module())
            module = getattr(module, parent)
        module.register_buffer(leaf, value.half() if value.is_floating_point() else value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TorchScript is deprecated; OpenAI's files remain
        torch.jit.script(root).save(str(path))
