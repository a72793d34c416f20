"""Forms of weights of the tiny CLIP, with random numbers, as other programs write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import transformers
from open_clip.model import CLIP
from torch import Tensor

from tests.clip.tiny import TINY_CONFIG

_VISION: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4, "patch_size": 16,
    "image_size": 64, "projection_dim": 32,
}  # fmt: skip
_TEXT: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "projection_dim": 32,
}  # fmt: skip
STATISTICS = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}


def transformers_clip(seed: int = 0, activation: str = "quick_gelu", **text: Any) -> transformers.CLIPModel:
    """Build the tiny CLIP of transformers, with random weights that are no zeros or ones."""
    config = transformers.CLIPConfig(
        vision_config={**_VISION, "hidden_act": activation},
        text_config={**_TEXT, "hidden_act": activation, **text},
        projection_dim=32,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.CLIPModel(config)
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval().requires_grad_(False)


def save_transformers_folder(folder: Path, seed: int = 0, activation: str = "quick_gelu", **options: Any) -> Path:
    """Write a folder as `save_pretrained` does, with the statistics of the pixels."""
    transformers_clip(seed, activation).save_pretrained(folder, **options)
    statistics = {f"image_{key}": value for key, value in STATISTICS.items()}
    (folder / "preprocessor_config.json").write_text(json.dumps(statistics))
    return folder


def save_open_clip_folder(folder: Path, model: CLIP, **model_cfg: object) -> Path:
    """Write a folder as open_clip's `push_to_hf_hub` does."""
    folder.mkdir()
    safetensors.torch.save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    config = {"model_cfg": {**TINY_CONFIG, **model_cfg}, "preprocess_cfg": STATISTICS}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


def add_prefix(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return weights with a prefix before every name."""
    return {prefix + name: value for name, value in state.items()}
