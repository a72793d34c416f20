"""A plain ViT of timm as a second vision model: images to patch features of its last block."""

from __future__ import annotations

from typing import Any, cast

import timm.data
import torch
import torch.nn.functional as F
from timm.models import eva, vision_transformer
from torch import Tensor, nn

from cliptrase_d2.clip.pos_embed import RESIZE_MODES, ResizedPositions
from cliptrase_d2.clip.tokens import PatchFeatures
from cliptrase_d2.utils.errors import InputError, check_choice
from cliptrase_d2.utils.shared_results import compute_once

# The last tokens after the final norm, or projections of the last block, after its first norm and with their biases,
# the heads side by side.
FEATURES = ("tokens", "queries", "keys", "values", "queries+keys")
_THIRDS = {"queries": (0,), "keys": (1,), "values": (2,), "queries+keys": (0, 1)}


class VitBackbone(nn.Module):
    """A plain ViT of timm that reads the same images as CLIP.

    Args:
        vit: a model that `load_vit` returned.
        name: of the model; "" for that of timm.
        position_resize: how the position embedding is fitted to another grid than the trained one, see
            `pos_embed.RESIZE_MODES`; "" as the code of the weights does it, see `get_position_resize`.
        is_random: whether the weights are random, for reports.
    Raises:
        InputError: an unknown mode, or one that the model does not support.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, vit: Any, name: str = "", position_resize: str = "", *, is_random: bool = False):
        super().__init__()
        self.vit, self.is_random = vit, is_random
        facts = vit.pretrained_cfg
        self.name = name or ".".join(filter(None, (facts["architecture"], facts["tag"])))
        mode = position_resize or get_position_resize(self.name)
        check_choice("position_resize", mode, RESIZE_MODES)
        is_simple = isinstance(vit, vision_transformer.VisionTransformer) and vit.num_prefix_tokens == 1
        if mode != "antialias" and (not is_simple or vit.no_embed_class or vit.pos_embed is None):
            got = f"{mode!r} for {self.name!r}, whose positions only timm can resize"
            raise InputError("position_resize", got, "Choose another mode.", allowed="'antialias'")
        self._positions = None if mode == "antialias" else ResizedPositions(vit.patch_embed.grid_size, mode)
        statistics = timm.data.resolve_model_data_config(vit)
        for key in ("mean", "std"):  # in 0 to 255, the range of the images
            values = 255 * torch.tensor(statistics[key]).view(3, 1, 1)
            self.register_buffer(f"pixel_{key}", values, persistent=False)

    def forward(self, images: Tensor, features: str = "tokens") -> PatchFeatures:
        """Return features of the patches, on the ViT's own grid at the size of the images.

        Images whose sides are no multiples of the patch size are resized to the next ones.

        Args:
            images: [B,3,H,W] RGB in 0 to 255.
            features: one of `FEATURES`.
        Raises:
            InputError: unknown features.
        """
        sides = zip(images.shape[2:], self.vit.patch_embed.patch_size, strict=True)
        rows, columns = (max(1, int(length / side + 0.5)) for length, side in sides)
        return PatchFeatures(self.tokens(images, (rows, columns), features)[:, 1:], (rows, columns))

    def tokens(self, images: Tensor, grid: tuple[int, int], features: str = "tokens") -> Tensor:
        """Return features of all tokens, [B,N+1,F], the class token first, without registers.

        The images are resized so that they have this grid.

        Args:
            images: [B,3,H,W] RGB in 0 to 255.
            grid: (h, w), h·w = N.
            features: one of `FEATURES`.
        Raises:
            InputError: unknown features.
        """
        check_choice("features", features, FEATURES)
        tokens, rope = compute_once(self, ("last block", grid), images, lambda: self._run(images, grid))
        tokens = self._finish(tokens, rope, features)
        return torch.cat([tokens[:, :1], tokens[:, self.vit.num_prefix_tokens :]], dim=1)

    def _run(self, images: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
        """Return the input of the last block for all tokens, registers included, and its rotations if it has any.

        All features can be computed from it, so that methods with different features share it.
        """
        size = [points * side for points, side in zip(grid, self.vit.patch_embed.patch_size, strict=True)]
        if list(images.shape[2:]) != size:
            images = F.interpolate(images, size, mode="bicubic", align_corners=False, antialias=True).clamp(0, 255)
        vit, rope = self.vit, cast(Any, None)
        x = self._embed(vit.patch_embed((images - self.pixel_mean) / self.pixel_std))
        if isinstance(vit, eva.Eva):
            x, rope = x
        x = vit.norm_pre(x)
        is_mixed = rope is not None and getattr(vit, "rope_mixed", False)  # then every block has its own
        ropes = list(rope) if is_mixed else [rope] * len(vit.blocks)
        for block, own in zip(vit.blocks, ropes[:-1], strict=False):
            x = block(x) if own is None else block(x, rope=own)
        return x, ropes[-1]

    def _finish(self, x: Tensor, rope: Tensor | None, features: str) -> Tensor:
        """Return features of all tokens, registers included, from the input of the last block."""
        block = self.vit.blocks[-1]
        if features != "tokens":
            return _project(block.attn, block.norm1(x), _THIRDS[features])
        return self.vit.norm(block(x) if rope is None else block(x, rope=rope))

    def _embed(self, patches: Tensor) -> Any:
        """Add class token, registers and positions to patches [B,h,w,E]."""
        if self._positions is None:
            return self.vit._pos_embed(patches)
        position = self._positions(self.vit.pos_embed[0], (patches.shape[1], patches.shape[2]))  # [1+N,E]
        first = self.vit.cls_token.expand(len(patches), -1, -1)
        return torch.cat([first, patches.flatten(1, 2)], dim=1) + position


def get_position_resize(name: str) -> str:
    """Return how the code of a model's weights fits positions to another grid, one of `RESIZE_MODES`.

    DINO and DINOv2 without registers sample at a scale factor, without antialiasing
    (https://github.com/facebookresearch/dino, https://github.com/facebookresearch/dinov2), MAE at an output size.
    DINOv2 with registers and timm resize with antialiasing.
    """
    architecture, _, tag = name.partition(".")
    if tag == "dino" or (architecture.endswith("_dinov2") and "_reg" not in architecture):
        return "scale_factor"
    return "output_size" if tag == "mae" else "antialias"


def _project(attention: Any, x: Tensor, thirds: tuple[int, ...]) -> Tensor:
    """Return the sum of some thirds of q, k and v of tokens, [B,T,E] to [B,T,E'], before any norm or rotation."""
    names = ("q", "k", "v")
    if attention.qkv is None:
        parts = [getattr(attention, f"{name}_proj")(x) for name in names]
    else:
        parts = list(attention.qkv(x).chunk(3, dim=-1))
    if getattr(attention, "q_bias", None) is not None:  # Eva keeps them apart from the weights
        parts = [part + getattr(attention, f"{name}_bias") for part, name in zip(parts, names, strict=True)]
    chosen = [parts[third] for third in thirds]
    return chosen[0] if len(chosen) == 1 else chosen[0] + chosen[1]
