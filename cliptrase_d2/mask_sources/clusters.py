"""Clusters of CLIP's own correlation, as CLIPtrase has them (supplement, A.2)."""

from __future__ import annotations

from cliptrase_d2.mask_sources.base import MaskInputs, MaskSource, register_mask_source
from cliptrase_d2.pipeline.proposals import MaskProposals
from cliptrase_d2.pipeline.stages import cluster, propose


@register_mask_source("scr")
class CorrelationClusters(MaskSource):
    """Clusters of the correlation that the model computed. The source has no weights and reads no pixels."""

    title = "CLIPtrase's clusters"
    needs_pixels = False

    def propose(self, inputs: MaskInputs) -> list[MaskProposals]:
        """Cluster the correlation rows of each image."""
        return propose_clusters(inputs)


def propose_clusters(inputs: MaskInputs) -> list[MaskProposals]:
    """Return the clusters of the correlation as masks, which may be empty where all patches are noise."""
    assert inputs.correlation is not None, "the source declares needs_correlation"
    clusters = cluster(inputs.correlation, inputs.settings)  # [B,N]
    return propose(inputs.correlation, clusters, inputs.grid, inputs.sizes, inputs.settings)
