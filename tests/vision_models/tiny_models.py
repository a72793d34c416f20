"""A ViT, a SAM and a SAM 2 that are small enough to build in a test, with random weights, saved in files."""

import math
from pathlib import Path

import safetensors.torch
import timm
import torch
import transformers
from torch import nn

TINY_VIT = "test_vit"  # timm's own model for tests: 64 wide, 6 blocks, patches of 16 pixels, 160 pixels
_PROMPTS = {"hidden_size": 16, "image_size": 64, "patch_size": 16, "mask_input_channels": 4}
_DECODER = {
    "hidden_size": 16, "mlp_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "iou_head_depth": 2,
    "iou_head_hidden_dim": 16,
}  # fmt: skip


def save_vit(folder: Path, name: str = TINY_VIT, seed: int = 1) -> Path:
    """Write the seeded weights of a ViT with its classification head. Return the file."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = timm.create_model(name)
    path = folder / f"{name}.safetensors"
    safetensors.torch.save_file(model.state_dict(), path)
    return path


def _save(model: nn.Module, folder: Path) -> str:
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for parameter in model.parameters():  # the initial ones are so small that all masks are the same
            if parameter.ndim > 1:
                parameter.normal_(std=2 / math.sqrt(parameter[0].numel()))
    model.save_pretrained(folder)
    return str(folder)


def save_sam(folder: Path) -> str:
    """Save a SAM of 64 pixels and 4×4 patches, with masks of 16×16. Return its folder."""
    vision = {
        "hidden_size": 16, "output_channels": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64,
        "patch_size": 16, "window_size": 2, "global_attn_indexes": [1], "num_pos_feats": 8, "mlp_dim": 32,
    }  # fmt: skip
    parts = {"vision_config": vision, "prompt_encoder_config": _PROMPTS, "mask_decoder_config": _DECODER}
    return _save(transformers.SamModel(transformers.SamConfig(**parts)), folder)


def save_sam2(folder: Path) -> str:
    """Save a SAM 2 of 64 pixels, with masks of 16×16. Return its folder."""
    backbone = transformers.Sam2HieraDetConfig(
        hidden_size=8, image_size=[64, 64], blocks_per_stage=[1, 1, 2, 1], embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 2, 2], window_size_per_stage=[4, 2, 2, 2], global_attention_blocks=[3],
        window_positional_embedding_background_size=[4, 4],
    )  # fmt: skip
    vision = transformers.Sam2VisionConfig(
        backbone_config=backbone, backbone_channel_list=[64, 32, 16, 8], fpn_hidden_size=16,
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
    )  # fmt: skip
    parts = {"vision_config": vision, "prompt_encoder_config": _PROMPTS, "mask_decoder_config": _DECODER}
    return _save(transformers.Sam2Model(transformers.Sam2Config(**parts)), folder)
