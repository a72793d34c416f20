"""Models of the references with a second vision model. Weights are rebuilt from the names of the parameters."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import timm
import torch
from open_clip import get_model_config
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image
from torch import Tensor, nn

from cliptrase_d2.clip.text import TextEncoder
from cliptrase_d2.clip.tokens import TextFeatures
from cliptrase_d2.clip.visual import VisualTower
from cliptrase_d2.data.protocol import Protocol
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.pipeline.published import PublishedProtocol
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.vision_models import VitBackbone
from cliptrase_d2.vocabulary import Vocabulary

PHOTOGRAPHS = ("2007_000559", "2007_005331")
_GAIN = 3.0
# The reference weights multiply and divide these parameters of a ViT by name.
_FACTORS = {"attn.qkv.weight": _GAIN, "attn.proj.weight": 1 / 5, "mlp.fc2.weight": 1 / 5, "mlp.lin2.weight": 1 / 5}


def load_rule(shared: Path) -> ModuleType:
    """Return the module that computes a parameter from its name."""
    spec = importlib.util.spec_from_file_location("reference_weights", shared / "tools" / "reference_weights.py")
    assert spec is not None
    assert spec.loader is not None
    rule = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rule)
    return rule


def fill_vit(shared: Path, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a ViT, those of its attention scaled as in the references."""
    filled: dict[str, Tensor] = load_rule(shared).fill(state)
    for name in filled:
        filled[name] *= next((factor for ending, factor in _FACTORS.items() if name.endswith(ending)), 1.0)
    return filled


def build_vit(shared: Path, name: str) -> VitBackbone:
    """Return a ViT of timm with the weights of the references."""
    with torch.device("meta"):  # every number is replaced, so none is drawn
        vit: Any = timm.create_model(name, num_classes=0, dynamic_img_size=True)
    vit.load_state_dict(fill_vit(shared, vit.state_dict()), assign=True)
    return VitBackbone(vit.eval().requires_grad_(False), name)


def build_model(shared: Path, clip_name: str, method: str, vision_model: nn.Module) -> CLIPtrase:
    """Return a model with the weights of the references, whose text features a test sets."""
    with torch.device("meta"):
        clip = CLIP(**get_model_config(clip_name))
    state = {name: value for name, value in clip.state_dict().items() if name != "attn_mask"}
    clip.load_state_dict(load_rule(shared).fill(state, gain=_GAIN), assign=True, strict=False)
    clip.eval().requires_grad_(False)
    return CLIPtrase(
        clip=clip,
        tower=VisualTower(clip.visual),
        text_encoder=TextEncoder(clip, SimpleTokenizer(), templates="simple"),
        settings=CLIPtraseSettings(method=method, clustering="none"),
        protocol=PublishedProtocol(),
        vision_model=vision_model,
    ).eval()


def load_arrays(reference: Path, name: str) -> dict[str, Tensor]:
    """Return the arrays of a file of references but the texts, or skip the test."""
    path = reference / "methods" / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"the reference outputs, {path}, are not on this machine")
    with np.load(path) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files if arrays[key].dtype.kind != "U"}


def open_photograph(shared: Path, index: int) -> Image.Image:
    """Return a photograph of the references."""
    return Image.open(shared / "data" / "real" / "voc2012" / "images" / f"{PHOTOGRAPHS[index]}.jpg").convert("RGB")


def prepare_photograph(shared: Path, index: int, short_side: int) -> dict[str, Any]:
    """Return the input of a model for a photograph, resized by the published protocol."""
    image = open_photograph(shared, index)
    inputs = Protocol("published", short_side, 2048, 16).prepare_input(image)
    return {**inputs, "photograph": torch.from_numpy(np.array(image)).permute(2, 0, 1)}


def set_words(model: CLIPtrase, features: Tensor, background: int) -> Vocabulary:
    """Give a model a vocabulary with these text features, and return it.

    Args:
        model: whose text features are replaced.
        features: [R,D], those of the background first, one word for every other class.
        background: number of words of the background; 0 for no background.
    """
    others = len(features) - background
    vocabulary = Vocabulary.parse([f"class {index}" for index in range(others)], ["background"] if background else [])
    class_index = torch.cat([torch.arange(others), torch.full((background,), others)])
    own = torch.cat([features[background:], features[:background]])  # our background is last
    model._texts[vocabulary] = TextFeatures(own, class_index, vocabulary.classes)
    return vocabulary


def to_published(label_map: Tensor, background: int, classes: int) -> Tensor:
    """Return labels in the published order, in which the background is class 0."""
    return (label_map + 1) % classes if background else label_map


def deviation(actual: Tensor, expected: Tensor) -> float:
    """Return the largest difference as a part of the largest entry."""
    assert actual.shape == expected.shape
    return float((actual.double() - expected.double()).abs().max() / expected.abs().max())
