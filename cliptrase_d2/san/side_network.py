"""The side network: a small ViT beside CLIP, with queries, fed by CLIP's features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from cliptrase_d2.san.fusion import AddFusion
from cliptrase_d2.san.mask_decoder import MaskDecoder
from cliptrase_d2.san.split_tower import BlockTokens
from cliptrase_d2.utils.errors import InputError

INITIAL_SCALE = 0.02  # standard deviation of the queries before training


class SideAdapterNetwork(nn.Module):
    """Masks and attention biases for every query.

    Args:
        clip_width: E, of the features that are added.
        clip_heads: A, heads of the blocks that the biases are for.
        image_size: pixels of a side of the square that the position embedding is made for; others are resized to.
        width, depth, heads, patch_size: of the ViT; published 240, 8, 6, 16.
        num_queries: Q.
        fusion: CLIP's features after how many blocks are added after how many blocks of the ViT, {0: 0, 1: 3, ...}
            as {block of the ViT: block of CLIP}.
        supervised_blocks: blocks of the ViT, counted from 1, that are decoded in training; the last is the result.
        decoder_channels, decoder_layers: see `MaskDecoder`.
    Raises:
        InputError: blocks or sizes that the ViT does not have.
    """

    def __init__(
        self,
        *,
        clip_width: int,
        clip_heads: int,
        image_size: int = 640,
        width: int = 240,
        depth: int = 8,
        heads: int = 6,
        patch_size: int = 16,
        num_queries: int = 100,
        fusion: Mapping[int, int],
        supervised_blocks: Sequence[int] = (7, 8),
        decoder_channels: int = 256,
        decoder_layers: int = 3,
    ):
        super().__init__()
        _check(depth, width, heads, fusion, supervised_blocks)
        self.vit_model = VisionTransformer(
            img_size=image_size,
            patch_size=patch_size,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            num_classes=0,
            class_token=False,
            global_pool="",
            final_norm=False,
        )
        self.query_embed = nn.Parameter(nn.init.normal_(torch.empty(1, num_queries, width), std=INITIAL_SCALE))
        self.query_pos_embed = nn.Parameter(nn.init.normal_(torch.empty(1, num_queries, width), std=INITIAL_SCALE))
        self.fusion = dict(fusion)
        self.fusion_layers = nn.ModuleDict({f"layer_{block}": AddFusion(clip_width, width) for block in fusion})
        self.mask_decoder = MaskDecoder(width, clip_heads, channels=decoder_channels, layers=decoder_layers)
        self.supervised_blocks = tuple(supervised_blocks)

    @property
    def patch_size(self) -> int:
        """Side of a patch, and of a value of the mask logits, in pixels."""
        return self.vit_model.patch_embed.patch_size[0]

    def forward(
        self, images: Tensor, features: BlockTokens, query_offset: Tensor | None = None
    ) -> list[tuple[Tensor, Tensor]]:
        """Decode every supervised block in training, else the last.

        Args:
            images: [B,3,H,W] normalised, sides in multiples of the patch size.
            features: of CLIP, of the same images at any size.
            query_offset: [B,Q,S], added to the queries of each image; None for nothing.
        Returns:
            Mask logits [B,Q,h,w] and attention biases [B,A,Q,h,w] of each, the last block's last.
        """
        patches = self.vit_model.patch_embed.proj(images)  # [B,S,h,w]
        grid = (patches.shape[2], patches.shape[3])
        queries = self.query_embed.expand(len(images), -1, -1)  # [B,Q,S]
        if query_offset is not None:
            queries = queries + query_offset
        position = torch.cat([self.query_pos_embed, self._position(grid)], dim=1)  # [1,Q+L,S]
        x = torch.cat([queries, patches.flatten(2).transpose(1, 2)], dim=1) + position  # [B,Q+L,S]
        x = self._fuse(0, x, features, grid)
        decoded = []
        read = self.supervised_blocks if self.training else self.supervised_blocks[-1:]
        for index, block in enumerate(self.vit_model.blocks, start=1):
            x = self._fuse(index, block(x), features, grid)
            if index in read:
                decoded.append(self._decode(x, grid))
            if index < len(self.vit_model.blocks):
                x = x + position
        return decoded

    def _decode(self, x: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        count = self.query_embed.shape[1]
        return self.mask_decoder(x[:, :count], x[:, count:].transpose(1, 2).unflatten(2, grid))

    def _fuse(self, block: int, x: Tensor, features: BlockTokens, grid: tuple[int, int]) -> Tensor:
        if block not in self.fusion:
            return x
        count = self.query_embed.shape[1]
        layer = self.fusion_layers[f"layer_{block}"]
        fused = layer(x[:, count:], features.feature_map(self.fusion[block]), grid)
        return torch.cat([x[:, :count], fused], dim=1)

    def _position(self, grid: tuple[int, int]) -> Tensor:
        """[1,L,S] of the patches, resized bicubically where the grid is another one."""
        position = self.vit_model.pos_embed  # [1,L0,S]
        assert position is not None, "this ViT has positions"
        trained = self.vit_model.patch_embed.grid_size
        if grid == tuple(trained):
            return position
        as_map = position.transpose(1, 2).unflatten(2, trained)  # [1,S,h0,w0]
        resized = F.interpolate(as_map, grid, mode="bicubic", align_corners=False)
        return resized.flatten(2).transpose(1, 2)


def _check(depth: int, width: int, heads: int, fusion: Mapping[int, int], supervised: Sequence[int]) -> None:
    allowed = f"blocks 0 to {depth} of the side network"
    wrong = [block for block in fusion if not 0 <= block <= depth]
    if wrong or not fusion:
        raise InputError("MODEL.SIDE_ADAPTER.FUSION_MAP", f"block {wrong}", "Change it.", allowed=allowed)
    if not supervised or max(supervised) != depth or min(supervised) < 1 or sorted(supervised) != list(supervised):
        got = f"{list(supervised)} of {depth} blocks"
        fix = "Name the blocks in order, the last one last."
        raise InputError("MODEL.SIDE_ADAPTER.DEEP_SUPERVISION_IDXS", got, fix, allowed=f"blocks 1 to {depth}")
    if width % heads:
        raise InputError(
            "MODEL.SIDE_ADAPTER.WIDTH", width, "Change one of them.", allowed=f"a multiple of its {heads} heads"
        )
