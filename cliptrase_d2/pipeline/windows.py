"""Sliding windows: where they lie, and how what they saw becomes one picture again.

Windows start at multiples of the patch size, so that their patches are patches of the whole image; a
patch seen by several windows takes the mean, which for logits, linear in the features, is the mean logit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Windows:
    """A cover of an image grid by equal windows.

    Attributes:
        grid: (h, w) of the whole image, in patches.
        window: (h', w') of one window, in patches.
        corners: top-left patch (row, column) of each of the K windows.
    """

    grid: tuple[int, int]
    window: tuple[int, int]
    corners: tuple[tuple[int, int], ...]

    @classmethod
    def cover(cls, grid: tuple[int, int], window: int, stride: int) -> Windows:
        """Windows of side `window` every `stride` patches; the last of a row or column ends with the image."""
        side = (min(window, grid[0]), min(window, grid[1]))
        rows, columns = (starts(length, inner, stride) for length, inner in zip(grid, side, strict=True))
        return cls(grid, side, tuple((row, column) for row in rows for column in columns))

    def patch_index(self, device: torch.device) -> Tensor:
        """[K,h'·w'] the image patch that each window patch is."""
        height, width = self.window
        inside = torch.arange(height)[:, None] * self.grid[1] + torch.arange(width)[None, :]  # [h',w']
        first = torch.tensor([row * self.grid[1] + column for row, column in self.corners])  # [K]
        return (first[:, None] + inside.flatten()).to(device)


def cut(images: Tensor, windows: Windows, patch_size: int) -> Tensor:
    """[B,3,H,W] -> [B·K,3,H',W'], all windows of the first image first."""
    height, width = (side * patch_size for side in windows.window)
    views = [
        images[:, :, row * patch_size :, column * patch_size :][:, :, :height, :width]
        for row, column in windows.corners
    ]
    return torch.stack(views, dim=1).flatten(0, 1)  # [B·K,3,H',W']


def stitch_patches(features: Tensor, windows: Windows) -> Tensor:
    """Mean over the windows that saw a patch, [B,K,N',D] -> [B,N,D]."""
    index = windows.patch_index(features.device).flatten()  # [K·N']
    total = features.new_zeros(len(features), windows.grid[0] * windows.grid[1], features.shape[-1])
    total.index_add_(1, index, features.flatten(1, 2))
    return total / torch.bincount(index, minlength=total.shape[1])[None, :, None]


def stitch_correlation(correlation: Tensor, windows: Windows) -> Tensor:
    """Mean over the windows that saw both patches, 0 where none did, [B,K,N',N'] -> [B,N,N]."""
    patches = windows.grid[0] * windows.grid[1]
    index = windows.patch_index(correlation.device)  # [K,N']
    total = correlation.new_zeros(len(correlation), patches, patches)
    for seen, patch in zip(correlation.unbind(1), index, strict=True):  # one after the other: N² numbers are enough
        total[:, patch[:, None], patch] += seen  # [B,N',N']
    inside = total.new_zeros(len(index), patches).scatter_(1, index, 1)  # [K,N]
    return total.div_((inside.T @ inside).clamp_min_(1))  # [B,N,N], by how many windows saw both


def starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin, every `stride` along a side; the last ends with it."""
    last = length - window
    return [*range(0, last, stride), last]
