"""CLIPtrase's masks of an image, found with SAN's own CLIP."""

from __future__ import annotations

import torch
from torch import Tensor

from cliptrase_d2.clip.tokens import Needs
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.pipeline.stages import cluster, correlate, propose
from cliptrase_d2.san.split_tower import BlockTokens, LastBlocks


@torch.no_grad()
def find_masks(features: BlockTokens, last_blocks: LastBlocks, settings: CLIPtraseSettings) -> list[Tensor]:
    """Return the masks of every image on the grid of CLIP's patches, [Q,N] bool, the largest first. Some may be empty.

    Args:
        features: of CLIP's first blocks.
        last_blocks: CLIP's remaining blocks.
        settings: of the correlation and the clusters.
    """
    layer = settings.correlation_layer
    tokens = last_blocks.image_tokens(features, Needs(qkv=(layer,)))
    correlation = correlate(tokens.qkv(layer), settings)
    clusters = cluster(correlation, settings)  # [B,N]
    sizes = [tokens.grid] * len(clusters)
    found = []
    for masks in propose(correlation, clusters, tokens.grid, sizes, settings):
        numbers = torch.arange(len(masks), device=clusters.device)[:, None]  # [Q,1]
        patches = masks.assignment.flatten() == numbers  # [Q,N]
        found.append(patches[patches.sum(1).argsort(descending=True, stable=True)])
    return found
