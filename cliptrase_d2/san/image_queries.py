"""The warm start "per_image": each image adds its own CLIPtrase masks to the queries of the side network."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cliptrase_d2.methods import get_dense_method
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.pipeline.stages import cluster, correlate, pool_masks, propose
from cliptrase_d2.san.query_projection import QueryProjection
from cliptrase_d2.san.split_tower import BlockTokens, LastBlocks
from cliptrase_d2.utils.errors import InputError


class ImageMasks(NamedTuple):
    """The masks of one image, the largest first; Q is 0 where it has none.

    Attributes:
        features: [Q,D], pooled over the mask.
        patches: [Q,N] bool, the patches of the mask.
    """

    features: Tensor
    patches: Tensor


class ImageQueries(nn.Module):
    """Turns the masks that CLIPtrase finds with SAN's own CLIP into an offset of an image's first queries.

    The clusters need no gradient. The linear layer behind them is trained.

    Args:
        joint_width: width of the mask features, D.
        width: width of the side network, S.
        settings: of CLIPtrase.
    Raises:
        InputError: the method cannot run on SAN's CLIP alone.
    """

    def __init__(self, joint_width: int, width: int, settings: CLIPtraseSettings):
        super().__init__()
        self.projection = nn.Linear(joint_width, width)
        nn.init.zeros_(self.projection.weight)  # plain SAN until `start_from`
        nn.init.zeros_(self.projection.bias)
        self.settings, self.method = settings, get_dense_method(settings.method, settings.method_options)
        if self.method.needs.text:
            got = f"{settings.method!r} reads the words, which the warm start does not know"
            raise InputError("method", got, "Choose another method.")

    def forward(self, features: BlockTokens, last_blocks: LastBlocks, count: int) -> Tensor:
        """Return the offsets [B,Q,S]: of an image's masks, the largest first, and 0 for the remaining queries.

        Args:
            features: of CLIP's first blocks.
            last_blocks: CLIP's remaining blocks.
            count: Q.
        """
        images = self.image_masks(features, last_blocks)
        offsets = [self.projection(masks.features[:count]) for masks in images]
        return torch.stack([nn.functional.pad(offset, (0, 0, 0, count - len(offset))) for offset in offsets])

    @torch.no_grad()
    def image_masks(self, features: BlockTokens, last_blocks: LastBlocks) -> list[ImageMasks]:
        """Return CLIPtrase's masks of every image, each with its mean feature (B.3)."""
        layer = self.settings.correlation_layer
        needs = replace(self.method.needs, qkv=(*self.method.needs.qkv, layer))
        tokens = last_blocks.image_tokens(features, needs)
        dense, correlation = self.method(tokens), correlate(tokens.qkv(layer), self.settings)
        clusters = cluster(correlation, self.settings)  # [B,N]
        sizes = [tokens.grid] * len(clusters)
        images = []
        for index, masks in enumerate(propose(correlation, clusters, tokens.grid, sizes, self.settings)):
            pooled = pool_masks(dense, index, masks)[: len(masks)]
            patches = masks.assignment.flatten() == torch.arange(len(masks), device=clusters.device)[:, None]  # [Q,N]
            order = patches.sum(1).argsort(descending=True, stable=True)
            images.append(ImageMasks(pooled[order], patches[order]))
        return images

    @torch.no_grad()
    def start_from(self, projection: QueryProjection) -> None:
        """Copy a fitted projection into the linear layer."""
        self.projection.weight.copy_(projection.weight)
        self.projection.bias.copy_(projection.bias)
