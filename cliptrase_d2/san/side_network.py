"""Side adapter network: a small ViT beside CLIP that predicts masks and attention biases (SAN, section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from cliptrase_d2.san.split_tower import BlockTokens

INITIAL_SCALE = 0.02  # standard deviation of the queries before training
_EPSILON = 1e-6


class SideAdapterNetwork(nn.Module):
    """Predict a mask and CLIP's attention biases for each query.

    Args:
        clip_width: E, width of the fused CLIP features.
        clip_heads: A, attention heads of the CLIP blocks that use the biases.
        image_size: side in pixels of the square image of the position embedding, which is resized for others.
        width, depth, heads, patch_size: of the ViT; 240, 8, 6 and 16 in the paper.
        num_queries: Q.
        fusion: {number of ViT blocks: number of CLIP blocks}; CLIP's features after that many blocks are added to the
            patches after that many ViT blocks.
        supervised_blocks: blocks of the ViT, counted from 1, that are decoded in training; the last one is the result.
        decoder_channels, decoder_layers: see `MaskDecoder`.
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
        patches_only: dict[str, Any] = {"num_classes": 0, "class_token": False, "global_pool": "", "final_norm": False}
        self.vit_model = VisionTransformer(
            image_size, patch_size, embed_dim=width, depth=depth, num_heads=heads, **patches_only
        )
        self.query_embed = nn.Parameter(nn.init.normal_(torch.empty(1, num_queries, width), std=INITIAL_SCALE))
        self.query_pos_embed = nn.Parameter(nn.init.normal_(torch.empty(1, num_queries, width), std=INITIAL_SCALE))
        self.fusion = dict(fusion)
        self.fusion_layers = nn.ModuleDict({f"layer_{block}": AddFusion(clip_width, width) for block in fusion})
        self.mask_decoder = MaskDecoder(width, clip_heads, channels=decoder_channels, layers=decoder_layers)
        self.supervised_blocks = tuple(supervised_blocks)

    @property
    def patch_size(self) -> int:
        """Side of a patch, which is one value of the mask logits, in pixels."""
        return self.vit_model.patch_embed.patch_size[0]

    def forward(self, images: Tensor, features: BlockTokens) -> list[tuple[Tensor, Tensor]]:
        """Decode each supervised block in training, only the last one otherwise.

        Args:
            images: [B,3,H,W] normalised, sides in multiples of the patch size.
            features: CLIP's features of the same images at any size.
        Returns:
            Mask logits [B,Q,h,w] and attention biases [B,A,Q,h,w] of each block, in order.
        """
        patches = self.vit_model.patch_embed.proj(images)  # [B,S,h,w]
        grid = (patches.shape[2], patches.shape[3])
        queries = self.query_embed.expand(len(images), -1, -1)  # [B,Q,S]
        position = torch.cat([self.query_pos_embed, self._resize_position(grid)], dim=1)  # [1,Q+L,S]
        x = torch.cat([queries, patches.flatten(2).transpose(1, 2)], dim=1) + position  # [B,Q+L,S]
        x = self._fuse(0, x, features, grid)
        decoded = []
        supervised = self.supervised_blocks if self.training else self.supervised_blocks[-1:]
        for index, block in enumerate(self.vit_model.blocks, start=1):
            x = self._fuse(index, block(x), features, grid)
            if index in supervised:
                queries, patches = self._split(x)
                decoded.append(self.mask_decoder(queries, patches.transpose(1, 2).unflatten(2, grid)))
            if index < len(self.vit_model.blocks):
                x = x + position
        return decoded

    @property
    def last_fusion(self) -> AddFusion:
        """The layer that adds CLIP's features last."""
        layer = self.fusion_layers[f"layer_{max(self.fusion)}"]
        assert isinstance(layer, AddFusion)
        return layer

    def normalise_fused(self, features: BlockTokens) -> Tensor:
        """Return CLIP's features of the last fusion as its projection reads them, [B,E,h',w']."""
        normalised: Tensor = self.last_fusion.input_proj[0](features.feature_map(self.fusion[max(self.fusion)]))
        return normalised

    def _fuse(self, block: int, x: Tensor, features: BlockTokens, grid: tuple[int, int]) -> Tensor:
        if block not in self.fusion:
            return x
        queries, patches = self._split(x)
        clip_features = features.feature_map(self.fusion[block])  # [B,E,h',w']
        return torch.cat([queries, self.fusion_layers[f"layer_{block}"](patches, clip_features, grid)], dim=1)

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Split [B,Q+L,S] into queries [B,Q,S] and patches [B,L,S]."""
        count = self.query_embed.shape[1]
        return x[:, :count], x[:, count:]

    def _resize_position(self, grid: tuple[int, int]) -> Tensor:
        """Return the position embedding of the patches, [1,L,S], resized bicubically if the grid differs."""
        position = self.vit_model.pos_embed  # [1,L0,S]
        assert position is not None, "this ViT has a position embedding"
        trained = self.vit_model.patch_embed.grid_size
        if grid == tuple(trained):
            return position
        as_map = position.transpose(1, 2).unflatten(2, trained)  # [1,S,h0,w0]
        resized = F.interpolate(as_map, grid, mode="bicubic", align_corners=False)
        return resized.flatten(2).transpose(1, 2)


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of [B,E,h,w].

    This is not an ``nn.LayerNorm`` because those are exempt from weight decay, and the published SAN decays this one.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, features: Tensor) -> Tensor:
        """Normalise [B,E,h,w]."""
        last = features.permute(0, 2, 3, 1)  # [B,h,w,E]
        return F.layer_norm(last, last.shape[-1:], self.weight, self.bias, _EPSILON).permute(0, 3, 1, 2)


class AddFusion(nn.Module):
    """Normalise CLIP's features, project them to the width of the side network, resize and add them.

    Args:
        clip_width: E.
        width: S, of the side network.
    """

    def __init__(self, clip_width: int, width: int):
        super().__init__()
        projection = nn.Conv2d(clip_width, width, kernel_size=1)
        nn.init.kaiming_uniform_(projection.weight, a=1)  # fvcore's c2_xavier_fill, as in the published SAN
        nn.init.zeros_(projection.bias)  # type: ignore[arg-type]
        self.input_proj = nn.Sequential(ChannelNorm(clip_width), projection)

    def forward(self, tokens: Tensor, features: Tensor, grid: tuple[int, int]) -> Tensor:
        """Add CLIP's features to the patches.

        Args:
            tokens: [B,L,S], L = h·w.
            features: [B,E,h',w'] of CLIP.
            grid: (h, w).
        Returns:
            [B,L,S]
        """
        projected = F.interpolate(self.input_proj(features), grid, mode="bilinear", align_corners=False)  # [B,S,h,w]
        return tokens + projected.flatten(2).transpose(1, 2)


class MLP(nn.Module):
    """Linear layers with ReLU between them.

    Args:
        widths: of the input, of each hidden layer, and of the output.
        on_maps: True for inputs [B,c,h,w] (1x1 convolutions), False for [...,c].
    """

    def __init__(self, *widths: int, on_maps: bool = False):
        super().__init__()
        pairs = pairwise(widths)
        self.layers = nn.ModuleList(nn.Conv2d(a, b, kernel_size=1) if on_maps else nn.Linear(a, b) for a, b in pairs)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layers; the last one has no ReLU."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class MaskDecoder(nn.Module):
    """Dot products of queries with patches: one for the mask, one per head of CLIP for the attention bias.

    Args:
        width: S, of the side network.
        heads: A, of CLIP's blocks.
        channels: of each layer and of the dot products.
        layers: of each MLP.
    """

    def __init__(self, width: int, heads: int, *, channels: int = 256, layers: int = 3):
        super().__init__()
        hidden = [channels] * (layers - 1)
        self.heads = heads
        self.query_mlp = MLP(width, *hidden, channels)
        self.pix_mlp = MLP(width, *hidden, channels, on_maps=True)
        self.attn_mlp = MLP(width, *hidden, channels * heads, on_maps=True)
        self.bias_scaling = nn.Linear(1, 1)

    def forward(self, queries: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Decode masks and attention biases.

        Args:
            queries: [B,Q,S].
            patches: [B,S,h,w].
        Returns:
            Mask logits [B,Q,h,w] and attention biases [B,A,Q,h,w].
        """
        queries = self.query_mlp(queries)  # [B,Q,c]
        masks = torch.einsum("bqc,bchw->bqhw", queries, self.pix_mlp(patches))
        by_head = self.attn_mlp(patches).unflatten(1, (self.heads, -1))  # [B,A,c,h,w]
        biases = torch.einsum("bqc,bachw->baqhw", queries, by_head)
        return masks, self.bias_scaling(biases[..., None]).squeeze(-1)
