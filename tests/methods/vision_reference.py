"""Models of the references with a second vision model. Weights are rebuilt from the names of the parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from open_clip import get_model_config
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn
from transformers import SamConfig, SamModel

from cliptrase_d2.clip.text import TextEncoder
from cliptrase_d2.clip.tokens import TextFeatures
from cliptrase_d2.clip.visual import VisualTower
from cliptrase_d2.data.protocol import Protocol
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.pipeline.published import PublishedProtocol
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.vision_models import VitBackbone
from cliptrase_d2.vision_models.sam_model import PromptedSam
from cliptrase_d2.vocabulary import Vocabulary
from tests.vision_models.reference import build_clip_state, build_vit_state, load_rule, read_outputs, read_photograph

# Parts of transformers' names of SAM's image encoder, and those of SAM's own state dict.
_SAM_NAMES = {
    "vision_encoder.": "image_encoder.",
    ".layers.": ".blocks.",
    ".layer_norm1.": ".norm1.",
    ".layer_norm2.": ".norm2.",
    "patch_embed.projection.": "patch_embed.proj.",
    "neck.conv1.": "neck.0.",
    "neck.norm1.": "neck.1.",
    "neck.conv2.": "neck.2.",
    "neck.norm2.": "neck.3.",
}
# The references multiply and divide these weights of SAM's encoder.
_SAM_FACTORS = {".attn.qkv.weight": 3, ".attn.proj.weight": 1 / 5, ".mlp.lin2.weight": 1 / 5}


def build_vit(shared: Path, name: str) -> VitBackbone:
    """Return a ViT of timm with the weights of the references."""
    with torch.device("meta"):  # every number is replaced, so none is drawn
        vit: Any = timm.create_model(name, num_classes=0, dynamic_img_size=True)
    vit.load_state_dict(build_vit_state(shared, name), assign=True)
    return VitBackbone(vit.eval().requires_grad_(False), name)


def build_sam(shared: Path) -> PromptedSam:
    """Return SAM ViT-B, whose image encoder has the weights of the references."""
    with torch.device("meta"):
        sam = SamModel(SamConfig())
    sam.to_empty(device="cpu")
    own = {}
    for name in sam.vision_encoder.state_dict():
        renamed = f"vision_encoder.{name}"
        for ours, theirs in _SAM_NAMES.items():
            renamed = renamed.replace(ours, theirs)
        own[renamed] = name
    shapes = sam.vision_encoder.state_dict()
    state = load_rule(shared).fill({renamed: shapes[name] for renamed, name in own.items()})
    for name, value in state.items():
        value *= next((factor for ending, factor in _SAM_FACTORS.items() if name.endswith(ending)), 1)
    sam.vision_encoder.load_state_dict({own[renamed]: value for renamed, value in state.items()})
    return PromptedSam(sam.eval().requires_grad_(False))


def build_model(
    shared: Path, clip_name: str, method: str, vision_model: nn.Module, sam: PromptedSam | None = None
) -> CLIPtrase:
    """Return a model with the weights of the references, whose text features a test sets."""
    with torch.device("meta"):
        clip = CLIP(**get_model_config(clip_name))
    clip.load_state_dict(build_clip_state(shared, clip_name), assign=True, strict=False)
    clip.eval().requires_grad_(False)
    return CLIPtrase(
        clip=clip,
        tower=VisualTower(clip.visual),
        text_encoder=TextEncoder(clip, SimpleTokenizer(), templates="simple"),
        settings=CLIPtraseSettings(method=method, clustering="none"),
        protocol=PublishedProtocol(),
        vision_model=vision_model,
        sam=sam,
    ).eval()


def load_arrays(reference: Path, name: str) -> dict[str, Tensor]:
    """Return the arrays of a file of references but the texts, or skip the test."""
    outputs = read_outputs(reference, name)
    return {key: torch.from_numpy(value) for key, value in outputs.items() if value.dtype.kind != "U"}


def prepare_photograph(shared: Path, index: int, short_side: int) -> dict[str, Any]:
    """Return the input of a model for a photograph, resized by the published protocol."""
    image = read_photograph(shared, index)
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
