"""Clusters of another backbone's tokens: DINO, DINOv2 or any plain ViT of timm in place of CLIP's correlation.

Source: CLIPtrase supplement, Table 2. It names neither the model nor the tokens. Here they are the last tokens.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import timm.data
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cliptrase_d2.clip.tokens import PatchFeatures, cosine_matrix
from cliptrase_d2.mask_sources.base import MaskInputs, MaskSettings, MaskSource, register_mask_source
from cliptrase_d2.mask_sources.clusters import propose_clusters
from cliptrase_d2.mask_sources.timm_vit import load_vit
from cliptrase_d2.pipeline.proposals import MaskProposals
from cliptrase_d2.pipeline.stages import select_patch_rows


class VitBackbone(nn.Module):
    """A plain ViT of timm that reads the same images as CLIP.

    Args:
        vit: a model that `load_vit` returned.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, vit: Any):
        super().__init__()
        self.vit = vit
        statistics = timm.data.resolve_model_data_config(vit)
        for name in ("mean", "std"):  # in 0 to 255, the range of the images
            values = 255 * torch.tensor(statistics[name]).view(3, 1, 1)
            self.register_buffer(f"pixel_{name}", values, persistent=False)

    def forward(self, images: Tensor, grid: tuple[int, int]) -> PatchFeatures:
        """Return the patch tokens after the last norm, on CLIP's grid.

        Args:
            images: [B,3,H,W] RGB in 0 to 255.
            grid: (h, w).
        """
        return PatchFeatures(self.tokens(images, grid)[:, 1:], grid)

    def tokens(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return the tokens after the last norm, [B,N+1,F], the class token first, without registers.

        The images are resized so that a patch of the ViT covers the same area as a patch of CLIP.
        """
        size = [points * side for points, side in zip(grid, self.vit.patch_embed.patch_size, strict=True)]
        if list(images.shape[2:]) != size:
            images = F.interpolate(images, size, mode="bicubic", align_corners=False, antialias=True).clamp(0, 255)
        tokens = self.vit.forward_features((images - self.pixel_mean) / self.pixel_std)
        return torch.cat([tokens[:, :1], tokens[:, self.vit.num_prefix_tokens :]], dim=1)


@register_mask_source("backbone")
class BackboneSource(MaskSource):
    """Clusters of the cosines between a ViT's last tokens, on CLIP's grid and with the method's settings.

    Args:
        backbone: the ViT.
    """

    needs_correlation = False

    def __init__(self, backbone: VitBackbone):
        super().__init__()
        self.backbone = backbone

    @classmethod
    def from_settings(cls, settings: MaskSettings) -> BackboneSource:
        """Load the ViT that the settings name.

        Raises:
            InputError: the model or its weights cannot be used.
        """
        return cls(VitBackbone(load_vit(settings.backbone, settings.backbone_weights)))

    def propose(self, inputs: MaskInputs) -> list[MaskProposals]:
        """Cluster the ViT's tokens of each image."""
        assert inputs.pixels is not None, "the source declares needs_pixels"
        cosines = cosine_matrix(self.backbone.tokens(inputs.pixels, inputs.grid))  # [B,N+1,N+1]
        return propose_clusters(replace(inputs, correlation=select_patch_rows(cosines, inputs.settings)))
