"""CLIP's image tower up to its last block."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from cliptrase_d2.clip import open_clip_modules as clip
from cliptrase_d2.clip.pos_embed import RESIZE_MODES, ResizedPositions
from cliptrase_d2.clip.siglip import SiglipTower
from cliptrase_d2.clip.tokens import QKV, ImageTokens, Needs
from cliptrase_d2.utils.errors import InputError, check_choice
from cliptrase_d2.utils.shared_results import collect_parts, compute_once

_TrunkTokens = tuple[dict[int, Tensor], dict[int, QKV]]  # hidden states by number; q, k and v by block


class VisualTower(nn.Module):
    """Images to the tokens before the last block. All blocks run as trained; a method reads the last one out.

    Args:
        visual: an open_clip image tower, a plain class-token ViT.
        position_resize: how the position embedding is fitted to another grid, see `pos_embed.RESIZE_MODES`.
    Raises:
        InputError: the tower or the mode is not supported.
    """

    kind = "clip"
    fixed_side: int | None = None  # images may have any size
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, visual: VisionTransformer, position_resize: str = "scale_factor"):
        super().__init__()
        clip.check_visual(visual, type(visual).__name__)
        check_choice("position_resize", position_resize, RESIZE_MODES)
        self.visual = visual
        self.position_resize = position_resize
        self._positions = {mode: ResizedPositions(clip.trained_grid(visual), mode) for mode in RESIZE_MODES}
        self.patch_size = clip.patch_size(visual)
        mean, std = clip.pixel_statistics(visual)
        # In 0 to 255, the range of the images. They follow from the model, so no checkpoint holds them.
        self.register_buffer("pixel_mean", 255 * torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", 255 * torch.tensor(std).view(3, 1, 1), persistent=False)

    @property
    def depth(self) -> int:
        """Number of blocks, L."""
        return len(clip.blocks(self.visual))

    def normalise(self, images: Tensor) -> Tensor:
        """Normalise RGB in 0 to 255, uint8 or float, [...,3,H,W]; float32."""
        return (images - self.pixel_mean) / self.pixel_std

    def denormalise(self, images: Tensor) -> Tensor:
        """Invert `normalise` up to rounding. The result is clamped to 0 to 255, which resizing may have left."""
        return (images * self.pixel_std + self.pixel_mean).clamp(0, 255)

    def forward(self, images: Tensor, needs: Needs | None = None, position: Tensor | None = None) -> ImageTokens:
        """Run all blocks but the last, once for the methods that share results (`share_results`).

        Args:
            images: [B,3,H,W] float, normalised; H and W are multiples of the patch size, any aspect.
            needs: hidden states, q, k and v to keep; None for those of the last block only.
            position: [N+1,E], the position embedding of this grid; None to resize the trained one.
        Raises:
            InputError: H or W is not a multiple of the patch size.
        """
        grid, needs = self.grid(images), needs or Needs()
        if position is None:
            states, projections = self._run_once(images, grid, needs)
        else:
            states, projections = self._run(images, needs, position)
        return ImageTokens(self.visual, dict(enumerate(clip.blocks(self.visual))), states, projections, grid, images)

    def _run_once(self, images: Tensor, grid: tuple[int, int], needs: Needs) -> _TrunkTokens:
        """Run all blocks but the last, and keep what the methods that share results have asked for so far."""
        mode = needs.position_resize
        states, blocks = needs.resolve(self.depth)
        states, blocks = collect_parts(self, ("states", mode), states), collect_parts(self, ("qkv", mode), blocks)
        needs = Needs(tuple(states), tuple(blocks))
        run = partial(self._run, images, needs, self.position(grid, mode))
        return compute_once(self, (mode, states, blocks), images, run)

    def _run(self, images: Tensor, needs: Needs, position: Tensor) -> _TrunkTokens:
        return run_trunk(clip.blocks(self.visual), clip.embed(self.visual, images, position), needs)

    def without_tokens(self) -> ImageTokens:
        """Return the operations of the tower that read no tokens but their arguments."""
        return ImageTokens(self.visual, dict(enumerate(clip.blocks(self.visual))), {}, {}, (0, 0))

    def block_qkv(self, images: Tensor) -> Iterator[QKV]:
        """Yield q, k and v of every block as trained, each [B,A,N+1,d], the first block first.

        Args:
            images: as in `forward`.
        Raises:
            InputError: H or W is not a multiple of the patch size.
        """
        x = clip.embed(self.visual, images, self.position(self.grid(images)))  # [B,N+1,E]
        for block in clip.blocks(self.visual):
            q, k, v = clip.project_qkv(block, x)
            yield q, k, v
            x = clip.finish_block(block, x, F.scaled_dot_product_attention(q, k, v))

    def position(self, grid: tuple[int, int], mode: str = "") -> Tensor:
        """Return the position embedding of a grid (h, w), [N+1,E].

        Args:
            grid: (h, w).
            mode: one of `RESIZE_MODES`; "" for that of the tower.
        """
        return self._positions[mode or self.position_resize](clip.position_embedding(self.visual), grid)

    def grid(self, images: Tensor) -> tuple[int, int]:
        """Return the grid (h, w) of images [B,3,H,W].

        Raises:
            InputError: H or W is not a multiple of the patch size.
        """
        height, width = images.shape[-2:]
        if height % self.patch_size or width % self.patch_size or not height or not width:
            fix = f"Pad or resize them to multiples of {self.patch_size}, the patch size."
            raise InputError("images", f"{height}×{width} pixels", fix)
        return height // self.patch_size, width // self.patch_size


def build_tower(visual: Any, position_resize: str = "scale_factor") -> VisualTower | SiglipTower:
    """Return the image tower of a model of open_clip.

    Args:
        visual: a plain class-token ViT, or the tower of a SigLIP 2.
        position_resize: as in `VisualTower`; SigLIP 2 takes images of one size.
    Raises:
        InputError: the tower or the mode is not supported.
    """
    return SiglipTower(visual) if hasattr(visual, "trunk") else VisualTower(visual, position_resize)


def run_trunk(blocks: nn.ModuleList, x: Tensor, needs: Needs, first: int = 0) -> _TrunkTokens:
    """Run all blocks but the last as trained.

    Args:
        blocks: consecutive blocks, the last of CLIP among them.
        x: [B,T,E], input of the first of them.
        needs: hidden states, q, k and v to keep.
        first: index of the first of them in CLIP.
    Returns:
        Hidden states [B,T,E] by number, the input of the last block among them; q, k, v [B,A,T,d] by block.
    """
    last = first + len(blocks) - 1
    kept_states, kept_blocks = needs.resolve(last + 1)
    states, projections = {first: x}, {}
    for index, block in enumerate(blocks[:-1], first):
        q, k, v = clip.project_qkv(block, x)
        if index in kept_blocks:
            projections[index] = q, k, v
        x = clip.finish_block(block, x, F.scaled_dot_product_attention(q, k, v))
        states[index + 1] = x
        if index not in kept_states:
            del states[index]
    return states, projections
