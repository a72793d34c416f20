"""Masks of another backbone's tokens: DINO, DINOv2 or any plain ViT of timm in the place of CLIP's correlation.

Source: CLIPtrase supplement, Table 2. It says neither which model nor which of its tokens; here they are the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import timm.data
import torch
import torch.nn.functional as F
from torch import Tensor

from cliptrase_d2.mask_sources.base import MaskSettings, MaskSource, register_mask_source
from cliptrase_d2.mask_sources.clusters import clustered_masks
from cliptrase_d2.mask_sources.timm_vit import load_vit
from cliptrase_d2.pipeline.proposals import MaskProposals
from cliptrase_d2.pipeline.settings import Method, PatchScene


@register_mask_source("backbone")
class BackboneSource(MaskSource):
    """Clusters of the cosines between a ViT's last tokens, on CLIP's grid and with the method's settings.

    Args:
        method: settings of the method.
        vit: a model of timm that `load_vit` takes.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, method: Method, vit: Any):
        super().__init__(method)
        self.vit = vit
        statistics = timm.data.resolve_model_data_config(vit)
        for name in ("mean", "std"):  # in 0 to 255, the range of the images
            values = 255 * torch.tensor(statistics[name]).view(3, 1, 1)
            self.register_buffer(f"pixel_{name}", values, persistent=False)

    @classmethod
    def from_settings(cls, method: Method, settings: MaskSettings) -> BackboneSource:
        """The model that the settings name, with its weights.

        Raises:
            InputError: the model or its weights cannot be used.
        """
        return cls(method, load_vit(settings.backbone, settings.backbone_weights))

    def propose(self, images: Tensor, scene: PatchScene, sizes: Sequence[tuple[int, int]]) -> list[MaskProposals]:
        """See the base class; of the scene only the grid is used."""
        rows = self.method.patch_rows(token_cosines(self.tokens(images, scene.grid)))
        return clustered_masks(self.method, replace(scene, correlation=rows), sizes)

    def tokens(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """The last tokens after the last norm, [B,N+1,E], the class token first, on a grid (h, w).

        Registers are left out. The images are resized so that a patch of the ViT covers what one of CLIP's covers.
        """
        size = [points * side for points, side in zip(grid, self.vit.patch_embed.patch_size, strict=True)]
        if list(images.shape[2:]) != size:
            images = F.interpolate(images, size, mode="bicubic", align_corners=False, antialias=True).clamp(0, 255)
        tokens = self.vit.forward_features((images - self.pixel_mean) / self.pixel_std)
        return torch.cat([tokens[:, :1], tokens[:, self.vit.num_prefix_tokens :]], dim=1)


def token_cosines(tokens: Tensor) -> Tensor:
    """Cosine of every two tokens, [B,T,E] -> [B,T,T] float32, in [-1,1]."""
    unit = F.normalize(tokens.float(), dim=-1)
    return torch.bmm(unit, unit.transpose(1, 2))
