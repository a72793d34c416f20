"""Label maps on the grid of patches, for oracles."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def patch_regions(labels: Tensor, grid: tuple[int, int], patch_size: int) -> Tensor:
    """The most frequent label of every patch; among equals the smallest.

    Args:
        labels: [H,W] integers, of the whole image at any size.
        grid: (h, w), h·w = N.
        patch_size: pixels of a patch that vote; labels of another size are read at the nearest of them.
    Returns:
        [N] int64, row by row of the grid.
    """
    size = (grid[0] * patch_size, grid[1] * patch_size)
    fitted = F.interpolate(labels[None, None].double(), size, mode="nearest-exact")[0, 0].long()  # [h·p,w·p]
    patches = fitted.view(grid[0], patch_size, grid[1], patch_size).transpose(1, 2).flatten(2)  # [h,w,p²]
    return torch.mode(patches.flatten(0, 1), dim=1).values  # [N]
