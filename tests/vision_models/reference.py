"""Weights, photographs and outputs of the published methods that read a second vision model."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import timm
import torch
from open_clip import get_model_config
from open_clip.model import CLIP
from PIL import Image
from torch import Tensor

_PHOTOGRAPHS = ("2007_000559", "2007_005331")


def read_outputs(reference: Path, name: str) -> dict[str, np.ndarray]:
    """Return the arrays of a file, or skip the test without it."""
    path = reference / "methods" / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"the reference outputs, {path}, are not on this machine")
    with np.load(path) as arrays:
        return dict(arrays)


def load_rule(shared: Path) -> ModuleType:
    """Return the module that derives weights from the names of parameters."""
    spec = importlib.util.spec_from_file_location("reference_weights", shared / "tools" / "reference_weights.py")
    assert spec is not None
    assert spec.loader is not None
    rule = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rule)
    return rule


def build_clip_state(shared: Path, name: str) -> dict[str, Tensor]:
    """Return the weights of a CLIP model of open_clip."""
    with torch.device("meta"):  # every number is replaced, so none is drawn
        state = CLIP(**get_model_config(name)).state_dict()
    return load_rule(shared).fill({name: value for name, value in state.items() if name != "attn_mask"}, gain=3.0)


def build_vit_state(shared: Path, name: str) -> dict[str, Tensor]:
    """Return the weights of a ViT of timm. Its attention is treated as that of CLIP."""
    with torch.device("meta"):
        state = load_rule(shared).fill(timm.create_model(name, num_classes=0).state_dict())
    for key, value in state.items():
        if key.endswith("attn.qkv.weight"):
            value *= 3
        elif key.endswith(("attn.proj.weight", "mlp.fc2.weight")):
            value /= 5
    return state


def read_photograph(shared: Path, index: int) -> Image.Image:
    """Return a photograph of the outputs."""
    path = shared / "data" / "real" / "voc2012" / "images" / f"{_PHOTOGRAPHS[index]}.jpg"
    return Image.open(path).convert("RGB")


def make_window(shared: Path, index: int, side: int) -> Tensor:
    """Return a photograph as a square window, [1,3,side,side] RGB in 0 to 255."""
    image = read_photograph(shared, index).resize((side, side), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
