"""Sliding windows: placement and stitching.

Windows start at multiples of the patch size, so their patches are patches of the image. A patch in several windows gets
the mean of its features. Logits are linear in the features, so this is also the mean of its logits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Windows:
    """A cover of an image grid by equal windows.

    Attributes:
        grid: (h, w) of the image, in patches.
        window: (h', w') of one window, in patches.
        corners: top-left patch (row, column) of each of the K windows.
    """

    grid: tuple[int, int]
    window: tuple[int, int]
    corners: tuple[tuple[int, int], ...]

    @classmethod
    def cover(cls, grid: tuple[int, int], window: int, stride: int) -> Windows:
        """Place windows of side `window` every `stride` patches. The last of a row or column ends at the border."""
        side = (min(window, grid[0]), min(window, grid[1]))
        rows, columns = (starts(length, inner, stride) for length, inner in zip(grid, side, strict=True))
        return cls(grid, side, tuple((row, column) for row in rows for column in columns))

    def refine(self, factor: int) -> Windows:
        """Return the same windows on a grid that is finer by a whole factor."""
        rows, columns = self.grid
        height, width = self.window
        corners = tuple((row * factor, column * factor) for row, column in self.corners)
        return Windows((rows * factor, columns * factor), (height * factor, width * factor), corners)

    def patch_index(self, device: torch.device) -> Tensor:
        """Return the index in the image of each window's patches, [K,h'·w']."""
        height, width = self.window
        inside = torch.arange(height)[:, None] * self.grid[1] + torch.arange(width)[None, :]  # [h',w']
        first = torch.tensor([row * self.grid[1] + column for row, column in self.corners])  # [K]
        return (first[:, None] + inside.flatten()).to(device)


def cut(images: Tensor, windows: Windows, patch_size: int) -> Tensor:
    """Cut windows out of images, [B,…,H,W] to [B·K,…,H',W'], all windows of the first image first."""
    height, width = (side * patch_size for side in windows.window)
    views = [
        images[..., row * patch_size :, column * patch_size :][..., :height, :width] for row, column in windows.corners
    ]
    return torch.stack(views, dim=1).flatten(0, 1)  # [B·K,…,H',W']


def stitch_patches(features: Tensor, windows: Windows) -> Tensor:
    """Average the features of each patch over its windows, [B,K,N',D] to [B,N,D]."""
    index = windows.patch_index(features.device).flatten()  # [K·N']
    total = features.new_zeros(len(features), windows.grid[0] * windows.grid[1], features.shape[-1])
    total.index_add_(1, index, features.flatten(1, 2))
    return total / torch.bincount(index, minlength=total.shape[1])[None, :, None]


def stitch_correlation(correlation: Tensor, windows: Windows) -> Tensor:
    """Average over the windows that hold both patches, 0 for pairs in no window, [B,K,N',N'] to [B,N,N]."""
    patches = windows.grid[0] * windows.grid[1]
    index = windows.patch_index(correlation.device)  # [K,N']
    total = correlation.new_zeros(len(correlation), patches, patches)
    for rows, patch in zip(correlation.unbind(1), index, strict=True):  # one by one, so that N² numbers are enough
        total[:, patch[:, None], patch] += rows  # [B,N',N']
    inside = total.new_zeros(len(index), patches).scatter_(1, index, 1)  # [K,N]
    return total.div_((inside.T @ inside).clamp_min_(1))  # [B,N,N], by the number of windows with both


def starts(length: int, window: int, stride: int) -> list[int]:
    """Return the first position of every window along a side. The last window ends at the border."""
    last = length - window
    return [*range(0, last, stride), last]
