"""Regions given by overlapping masks: their patches, patches that belong to none, and values painted by masks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cliptrase_d2.methods.word_maps import ReadRows, Size, WordValues

_MASKS_AT_ONCE = 16  # as float32 at the size of the photograph


def weigh_patches(masks: Tensor, grid: Size) -> Tensor:
    """Return the weight of every patch in every mask, [K,H,W] to [K,h,w] float32 in [0,1].

    Args:
        masks: mask logits of any real type, above 0 inside.
        grid: (h, w).
    """
    return _resize(masks, grid).clamp(0, 1)


def compare_inside_and_outside(weights: Tensor, features: Tensor) -> Tensor:
    """Return how much more a patch resembles the masks that contain it than the other masks, [P] float32.

    A patch resembles a mask by the mean of its cosines to the mask's patches. It is compared by the mean over the masks
    that contain it, or 0 if there are none, minus the mean over those that do not.

    Args:
        weights: [K,P], above 0 inside. No mask is empty.
        features: [P,E].
    """
    unit = F.normalize(features.float(), dim=-1)
    inside = (weights > 0).float()  # [K,P]
    # The mean of cosines is the product with the mean, so there is no P×P matrix.
    similarity = unit @ average_inside(weights, unit).T  # [P,K]
    own, other = ((similarity * part).sum(1) / (part.sum(1) + 1e-9) for part in (inside.T, 1 - inside.T))
    return own - other


def average_inside(weights: Tensor, features: Tensor) -> Tensor:
    """Return the mean of the features inside each mask, [K,P] weights above 0 and [P,E] to [K,E]. No mask is empty."""
    inside = (weights > 0).to(features)
    return inside @ features / inside.sum(1, keepdim=True)


@dataclass(frozen=True)
class PaintedRegions(WordValues):
    """The sum of the regions' values, each weighted by its mask; other values where there is no mask.

    Attributes:
        masks: [K,H,W] mask logits of any real type. A pixel has the weight clamp(logit, 0, 1).
        values: [K,R] float32, of each region.
        background: values where no mask is above 0.
    """

    masks: Tensor
    values: Tensor
    background: WordValues

    def reader(self, size: Size) -> ReadRows:
        """Return a function that computes rows of the values. Other sizes than the masks' resize their logits."""
        masks = self.masks if tuple(self.masks.shape[1:]) == size else _resize(self.masks, size)
        read_background = self.background.reader(size)

        def read(start: int, stop: int) -> Tensor:
            weights = masks[:, start:stop].float().clamp(0, 1)  # [K,n,W]
            painted = torch.einsum("kr,knw->nrw", self.values, weights)
            is_empty = weights.sum(0) == 0  # [n,W]
            if not is_empty.any():
                return painted
            return torch.where(is_empty[:, None], read_background(start, stop), painted)

        return read


def _resize(masks: Tensor, size: Size) -> Tensor:
    parts = [
        F.interpolate(part[None].float(), size, mode="bilinear", align_corners=False)[0]
        for part in masks.split(_MASKS_AT_ONCE)
        if len(part)
    ]
    return torch.cat(parts) if parts else masks.new_zeros((0, *size), dtype=torch.float32)
