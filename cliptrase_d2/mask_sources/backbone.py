"""Clusters of another backbone's tokens: DINO, DINOv2 or any plain ViT of timm in place of CLIP's correlation.

Source: CLIPtrase supplement, Table 2. It names neither the model nor the tokens. Here they are the last tokens.
"""

from __future__ import annotations

from dataclasses import replace

from cliptrase_d2.clip.tokens import cosine_matrix
from cliptrase_d2.mask_sources.base import MaskInputs, MaskSettings, MaskSource, register_mask_source
from cliptrase_d2.mask_sources.clusters import propose_clusters
from cliptrase_d2.pipeline.proposals import MaskProposals
from cliptrase_d2.pipeline.stages import select_patch_rows
from cliptrase_d2.vision_models import VitBackbone, load_vit


@register_mask_source("backbone")
class BackboneSource(MaskSource):
    """Clusters of the cosines between a ViT's last tokens, on CLIP's grid and with the method's settings.

    Args:
        backbone: the ViT.
    """

    title = "clusters of another ViT"
    needs_correlation = False

    def __init__(self, backbone: VitBackbone):
        super().__init__()
        self.backbone, self.name, self.is_random = backbone, backbone.name, backbone.is_random

    @classmethod
    def from_settings(cls, settings: MaskSettings) -> BackboneSource:
        """Load the ViT that the settings name.

        Raises:
            InputError: the model or its weights cannot be used.
        """
        vit = load_vit(settings.backbone, settings.backbone_weights)
        return cls(VitBackbone(vit, settings.backbone, is_random=not settings.backbone_weights))

    def propose(self, inputs: MaskInputs) -> list[MaskProposals]:
        """Cluster the ViT's tokens of each image."""
        assert inputs.pixels is not None, "the source declares needs_pixels"
        cosines = cosine_matrix(self.backbone.tokens(inputs.pixels, inputs.grid))  # [B,N+1,N+1]
        return propose_clusters(replace(inputs, correlation=select_patch_rows(cosines, inputs.settings)))
