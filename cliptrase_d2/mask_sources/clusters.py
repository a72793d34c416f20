"""Masks of CLIP's own correlation, as CLIPtrase has them (supplement, A.2)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from cliptrase_d2.mask_sources.base import MaskSource, register_mask_source
from cliptrase_d2.pipeline.proposals import MaskProposals
from cliptrase_d2.pipeline.settings import Method, PatchScene


@register_mask_source("scr")
class CorrelationSource(MaskSource):
    """Clusters of the correlation that the scene already has; needs neither pixels nor further weights."""

    def propose(self, images: Tensor, scene: PatchScene, sizes: Sequence[tuple[int, int]]) -> list[MaskProposals]:
        """See the base class."""
        return clustered_masks(self.method, scene, sizes)


def clustered_masks(method: Method, scene: PatchScene, sizes: Sequence[tuple[int, int]]) -> list[MaskProposals]:
    """The clusters of the scene's correlation as masks, at the (H, W) of every image; those of one size together."""
    clusters = method.cluster(scene.correlation)  # [B,N]
    if len(set(sizes)) == 1:
        return method.propose(scene, clusters, sizes[0])
    return [method.propose(scene.of([index]), clusters[[index]], size)[0] for index, size in enumerate(sizes)]
