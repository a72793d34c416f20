"""What an image's own masks add to the queries of the side network: the warm start "per_image"."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from cliptrase_d2.methods.attention import DenseAttention
from cliptrase_d2.pipeline.settings import Method, PatchScene
from cliptrase_d2.san.query_projection import QueryProjection
from cliptrase_d2.san.split_tower import BlockTokens, LastBlocks


class ImageMasks(NamedTuple):
    """The masks of one image, the largest first; Q is 0 where there is none.

    Attributes:
        features: [Q,D], pooled over the mask.
        patches: [Q,N] bool, which patches are its.
    """

    features: Tensor
    patches: Tensor


class ImageQueries(nn.Module):
    """CLIPtrase's masks of an image, found in SAN's own CLIP, as an offset of its first queries.

    The clusters need no gradient; the linear layer behind them is trained.

    Args:
        joint_width: D, of the mask features.
        width: of the side network, S.
        method: settings of CLIPtrase.
        attention: of CLIP's last block.
        correlation_block: whose correlation is clustered, from the end.
    """

    def __init__(
        self, joint_width: int, width: int, *, method: Method, attention: DenseAttention, correlation_block: int
    ):
        super().__init__()
        self.projection = nn.Linear(joint_width, width)
        nn.init.zeros_(self.projection.weight)  # until `start_from`: plain SAN
        nn.init.zeros_(self.projection.bias)
        self.method, self.attention, self.correlation_block = method, attention, correlation_block

    def forward(self, features: BlockTokens, last_blocks: LastBlocks, count: int) -> Tensor:
        """Offsets [B,Q,S]: of an image's masks, the largest first, and 0 for queries that no mask is left for.

        Args:
            features: of CLIP's first blocks.
            last_blocks: the other blocks.
            count: Q.
        """
        found = self.image_masks(features, last_blocks)
        offsets = [self.projection(masks.features[:count]) for masks in found]
        return torch.stack([nn.functional.pad(offset, (0, 0, 0, count - len(offset))) for offset in offsets])

    @torch.no_grad()
    def image_masks(self, features: BlockTokens, last_blocks: LastBlocks) -> list[ImageMasks]:
        """CLIPtrase's masks of every image, each with its MAP feature (B.3)."""
        tokens = last_blocks.dense_tokens(features, self.attention, self.correlation_block)
        scene = PatchScene(tokens.patches, tokens.class_token, self.method.correlate(tokens), tokens.grid)
        clusters = self.method.cluster(scene.correlation)  # [B,N]
        found = []
        for index, masks in enumerate(self.method.propose(scene, clusters, scene.grid)):
            pooled = self.method.pool(scene, index, masks)[: len(masks)]
            patches = masks.assignment.flatten() == torch.arange(len(masks), device=clusters.device)[:, None]  # [Q,N]
            order = patches.sum(1).argsort(descending=True, stable=True)
            found.append(ImageMasks(pooled[order], patches[order]))
        return found

    @torch.no_grad()
    def start_from(self, projection: QueryProjection) -> None:
        """Take a fitted projection as the linear layer's first weights."""
        self.projection.weight.copy_(projection.weight)
        self.projection.bias.copy_(projection.bias)
