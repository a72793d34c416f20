"""A CLIP model small enough to build in a test, and its configuration under a name for tests that load by name."""

from __future__ import annotations

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
from cliptrase_d2.clip.token_rows import sparse_state_dict

TINY_CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"layers": 3, "width": 64, "head_width": 16, "patch_size": 16, "image_size": 64},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


def tiny_clip(seed: int = 0, **config: object) -> CLIP:
    """Three image blocks of 4 heads, 4×4 patches; two text blocks; random weights; evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIP(**{**TINY_CONFIG, **config})
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # zero as built, which would hide a forgotten bias
                nn.init.normal_(parameter, std=0.1)
    return model.eval().requires_grad_(False)


def register_tiny(folder: Path, name: str = "tiny-vit", **config: object) -> str:
    """Make the tiny model known to open_clip by a name, which is returned."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps({**TINY_CONFIG, **config}))
    open_clip.add_model_config(path)
    return name


def sparse_state(model: CLIP, token_ids: Iterable[int]) -> dict[str, Tensor]:
    """What the file of a model would hold that met no other tokens than these in training."""
    ids = torch.tensor(sorted(set(token_ids)))
    met = copy.deepcopy(model)
    tower = text_tower(met)
    tower.token_embedding = nn.Embedding.from_pretrained(tower.token_embedding.weight[ids])
    return sparse_state_dict(met, ids)


def openai_state(model: CLIP) -> dict[str, Tensor]:
    """The model's weights with the three entries that OpenAI's own state dicts have."""
    extra = {"input_resolution": 64, "context_length": 77, "vocab_size": 49408}
    return {**model.state_dict(), **{name: torch.tensor(value) for name, value in extra.items()}}


class _Holder(nn.Module):
    """Holds tensors under dotted names."""

    def __init__(self, state: dict[str, Tensor]):
        super().__init__()
        children: dict[str, dict[str, Tensor]] = {}
        for name, value in state.items():
            head, _, rest = name.partition(".")
            if rest:
                children.setdefault(head, {})[rest] = value
            else:
                self.register_buffer(head, value)
        for name, child in children.items():
            self.add_module(name, _Holder(child))

    def forward(self, x: Tensor) -> Tensor:
        return x


def save_openai_archive(model: CLIP, path: Path) -> None:
    """Write a real TorchScript archive with the layout of OpenAI's: half-precision weights under CLIP's names."""
    state = {name: v.half() if v.is_floating_point() else v for name, v in openai_state(model).items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TorchScript is on its way out, OpenAI's files remain
        torch.jit.trace(_Holder(state), torch.ones(1)).save(str(path))
