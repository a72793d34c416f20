"""CLIP's image tower with a replaceable last attention."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from cliptrase_d2.clip import open_clip_modules as clip
from cliptrase_d2.clip.pos_embed import RESIZE_MODES, ResizedPositions
from cliptrase_d2.clip.tokens import VisualTokens
from cliptrase_d2.methods.attention import AttentionInput, attention_named
from cliptrase_d2.utils.errors import InputError


class VisualTower(nn.Module):
    """Images to tokens of the joint space, with one block's q, k, v beside them.

    Every block is the trained one; only what is read out of the last ones is as `attention` has it.
    With "qk" the class token is that of `encode_image`.

    Args:
        visual: an open_clip image tower, a plain class-token ViT.
        attention: name of the last block's attention, see `attention.ATTENTIONS`.
        correlation_layer: block whose q, k, v are handed over, -1 being the last.
        position_resize: how the position embedding is fitted to another grid, see `pos_embed.RESIZE_MODES`.
    Raises:
        InputError: the tower, a name or the layer is not supported.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        *,
        visual: VisionTransformer,
        attention: str,
        correlation_layer: int = -2,
        position_resize: str = "scale_factor",
    ):
        super().__init__()
        clip.check_visual(visual, type(visual).__name__)
        depth = len(clip.blocks(visual))
        if not -depth <= correlation_layer < depth:
            raise InputError(
                "MODEL.CLIPTRASE.CORRELATION_LAYER",
                f"block {correlation_layer} of a tower with {depth} blocks",
                "Count from the end: -1 is the last block, -2 the last but one.",
                allowed=f"{-depth} to {depth - 1}",
            )
        if position_resize not in RESIZE_MODES:
            raise InputError(
                "MODEL.CLIP.POS_EMBED_RESIZE",
                f"the mode {position_resize!r}",
                "Use one of these names.",
                allowed=f"one of {', '.join(RESIZE_MODES)}",
            )
        self.visual = visual
        self.attention = attention_named(attention)
        self.correlation_layer = correlation_layer % depth
        self.position_resize = position_resize
        self._positions = ResizedPositions(clip.trained_grid(visual), position_resize)
        self.patch_size = clip.patch_size(visual)
        mean, std = clip.pixel_statistics(visual)
        # In 0 to 255, the range of the images; they follow from the model, so no checkpoint holds them.
        self.register_buffer("pixel_mean", 255 * torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", 255 * torch.tensor(std).view(3, 1, 1), persistent=False)

    def normalise(self, images: Tensor) -> Tensor:
        """RGB in 0 to 255, uint8 or float, [...,3,H,W], to what `forward` takes; float32."""
        return (images - self.pixel_mean) / self.pixel_std

    def pixels(self, images: Tensor) -> Tensor:
        """What `normalise` was given, but for float32's rounding; RGB in 0 to 255, where resizing may have left it."""
        return (images * self.pixel_std + self.pixel_mean).clamp(0, 255)

    def forward(self, images: Tensor, regions: Tensor | None = None, position: Tensor | None = None) -> VisualTokens:
        """Encode a batch.

        Args:
            images: [B,3,H,W] float, normalised; H and W are multiples of the patch size, any aspect.
            regions: [B,N] int64, the true region of every patch, for an oracle.
            position: [N+1,E], the position embedding of this grid where the caller has it; None to resize the trained.
        Returns:
            Tokens in the joint space, float32; q, k, v as the block computes them.
        Raises:
            InputError: H or W is no multiple of the patch size, or an oracle is told no regions.
        """
        grid = self._grid(images)
        self._check_regions(regions)
        x = clip.embed(self.visual, images, self.position(grid) if position is None else position)  # [B,N+1,E]
        blocks = clip.blocks(self.visual)
        first_read = max(0, len(blocks) - self.attention.blocks)
        dense = x
        for index, block in enumerate(blocks):
            q, k, v = clip.project_qkv(block, x)  # each [B,A,N+1,d]
            if index == self.correlation_layer:
                correlated = q, k, v
            if index >= first_read:
                given = AttentionInput(q, k, v, clip.first_norm(block, x), grid, regions)
                dense = self._read_out(block, given, x if index == first_read else dense)
            if index < len(blocks) - 1:
                x = clip.finish_block(block, x, F.scaled_dot_product_attention(q, k, v))
        joint = F.normalize(clip.to_joint_space(self.visual, dense).float(), dim=-1)  # [B,N+1,D]
        return VisualTokens(joint[:, 0], joint[:, 1:], *correlated, grid)

    def _read_out(self, block: ResidualAttentionBlock, given: AttentionInput, dense: Tensor) -> Tensor:
        """[B,N+1,E]: what the attention reads in a block, on top of what it has read so far."""
        read = self.attention.attend(given)
        return clip.finish_block(block, dense, read, residual=self.attention.residual, mlp=self.attention.mlp)

    def _check_regions(self, regions: Tensor | None) -> None:
        if self.attention.is_oracle and regions is None:
            raise InputError(
                "MODEL.CLIPTRASE.ATTENTION",
                "an oracle, for images without labels",
                "Evaluate it on a data set with labels, or choose another attention.",
                allowed="labels, whose regions it looks at",
            )

    def layers(self, images: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """q, k, v of every block in turn, all of them as trained, the last one too.

        Args:
            images: as in `forward`.
        Yields:
            Three tensors [B,A,N+1,d] for each block, first block first.
        Raises:
            InputError: H or W is no multiple of the patch size.
        """
        x = clip.embed(self.visual, images, self.position(self._grid(images)))  # [B,N+1,E]
        for block in clip.blocks(self.visual):
            q, k, v = clip.project_qkv(block, x)
            yield q, k, v
            x = clip.finish_block(block, x, F.scaled_dot_product_attention(q, k, v))

    def position(self, grid: tuple[int, int]) -> Tensor:
        """The position embedding of a grid (h, w), [N+1,E]."""
        return self._positions(clip.position_embedding(self.visual), grid)

    def _grid(self, images: Tensor) -> tuple[int, int]:
        height, width = images.shape[-2:]
        if height % self.patch_size or width % self.patch_size or not height or not width:
            raise InputError(
                "images",
                f"{height}×{width} pixels",
                "Pad or resize the images first.",
                allowed=f"height and width in multiples of {self.patch_size}, the patch size",
            )
        return height // self.patch_size, width // self.patch_size
