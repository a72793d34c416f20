"""A SigLIP 2 small enough to build in a test."""

from __future__ import annotations

from typing import Any

import timm
import torch
from open_clip.timm_model import TimmModel
from timm.models.vision_transformer import VisionTransformer
from torch import nn

TINY_SIGLIP = "vit_tiny_patch8_siglip_32"


@timm.models.register_model
def vit_tiny_patch8_siglip_32(pretrained: bool = False, **options: Any) -> VisionTransformer:
    """Two blocks of 2 heads, 4×4 patches, attentional pooling."""
    options = {key: value for key, value in options.items() if key in ("num_classes", "global_pool")}
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 2}
    return VisionTransformer(**{**sizes, "class_token": False, **options})


def tiny_visual() -> TimmModel:
    """Return the image tower with random weights, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        visual = TimmModel(TINY_SIGLIP, 48, image_size=32, pool="map", proj="none")
        for name, parameter in visual.named_parameters():
            if name.endswith("bias"):  # zero by default, which would hide a forgotten bias
                nn.init.normal_(parameter, std=0.1)
    return visual.eval().requires_grad_(False)
