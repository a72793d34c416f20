"""ResCLIP's semantic feedback refinement: a first segmentation becomes an attention between patches.

Source: ResCLIP, CVPR 2025, Sec. 3.4 (https://arxiv.org/abs/2411.15851), with the numbers of its published code.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from cliptrase_d2.utils.pixel_affinity import pixel_affinity, propagate

DILATIONS = (8, 16)  # pixels, of the neighbours along which the first segmentation is propagated
STEPS = 10
_DEVIATION = 5.0  # of the Gaussian that smooths a row, in patches
_LONGEST_KERNEL = 31
_EPSILON = 1e-8
_VALUES_AT_ONCE = 2**23  # of the word maps that are propagated together


def pixel_words(cosines: Tensor, image: Tensor, scale: float, threshold: float) -> Tensor:
    """Return the best word of each pixel after PAMR on the cosines, word 0 where the best word is improbable.

    Memory holds a few maps of a chunk of the words, whatever their number.

    Args:
        cosines: [R,h,w] of the words, upsampled bilinearly.
        image: [3,H,W] of any range.
        scale: of the cosines in the softmax over the words, > 0.
        threshold: least probability of the best word, 0 to 1.
    Returns:
        [H,W] int64, 0 to R-1; the lowest of equally good words.
    """
    size = (image.shape[1], image.shape[2])
    affinity = pixel_affinity(image, DILATIONS)
    best, total = cosines.new_full((2, *size), -torch.inf)  # the largest logit, and the log of the softmax's divisor
    words = torch.zeros_like(best, dtype=torch.int64)
    first = 0
    for part in cosines.chunk(math.ceil(len(cosines) * best.numel() / _VALUES_AT_ONCE)):
        maps = F.interpolate(part[None], size, mode="bilinear", align_corners=False)[0]  # [r,H,W]
        maps = propagate(maps, affinity, STEPS, DILATIONS).mul_(scale)
        highest, index = maps.max(0)
        words = torch.where(highest > best, index + first, words)
        best, total = torch.maximum(highest, best), torch.logaddexp(total, maps.logsumexp(0))
        first += len(part)
    return words.masked_fill((best - total).exp() < threshold, 0)


def patch_words(words: Tensor, grid: tuple[int, int], side: int) -> Tensor:
    """Return the most frequent word of each patch, [H,W] to [h,w] int64; the lowest of equally frequent ones.

    Args:
        words: [H,W] int64, at least 0.
        grid: (h, w). Rows and columns beyond the last patch are not read.
        side: of a patch, in pixels.
    """
    rows, columns = grid
    cells = words[: rows * side, : columns * side].unflatten(0, (rows, side)).unflatten(2, (columns, side))
    pixels = cells.transpose(1, 2).flatten(2).flatten(0, 1)  # [h,p,w,p] to [N,p²]
    patch, count = torch.arange(len(pixels), device=words.device)[:, None], int(words.max()) + 1
    # Not torch.mode, which may return any of equally frequent words on a GPU.
    votes = torch.bincount((patch * count + pixels).flatten(), minlength=len(pixels) * count)
    return votes.view(len(pixels), count).argmax(1).view(grid)


def feedback_matrix(words: Tensor, *, whole_path: bool = False) -> Tensor:
    """Return the attention of patches to patches of the same word, SFR without its last division.

    A patch of the same word counts 1 if the path to it stays within the word, and less with its distance otherwise.
    Each row is smoothed along the row-by-row index of the patches and divided by its sum.

    Args:
        words: [B,h,w] int64, the word of each patch.
        whole_path: see `path_stays_in_word`.
    Returns:
        [B,N+1,N+1] float32, at least 0; 0 in the class token's row and column.
    """
    batch, height, width = words.shape
    flat = words.flatten(1)  # [B,N]
    distance = _path_tables(height, width, words.device)[0]  # [N,N]
    decay = (-distance / max(height - 1, width - 1, 1)).exp()
    is_same = flat[:, :, None] == flat[:, None]  # [B,N,N]
    matrix = torch.where(path_stays_in_word(words, whole_path=whole_path), 1.0, decay) * is_same
    kernel = _smoothing_kernel(height * width).to(words.device)
    smooth = F.conv1d(matrix.flatten(0, 1)[:, None], kernel, padding=kernel.shape[2] // 2)[:, 0]  # [B·N,N]
    smooth = smooth / (smooth.sum(1, keepdim=True) + _EPSILON)
    return F.pad(smooth.unflatten(0, (batch, -1)), (1, 0, 1, 0))


def path_stays_in_word(words: Tensor, *, whole_path: bool = False) -> Tensor:
    """Return for each two patches whether the patches on the line from the first to the second have the first's word.

    The line is sampled at n + 1 points, n being the largest distance on the grid. The published code looks at the first
    d + 1 of them, d being the distance of the two patches, so it reaches the second patch only if d = n.

    Args:
        words: [B,h,w] int64.
        whole_path: look at all points instead.
    Returns:
        [B,N,N] bool.
    """
    batch, height, width = words.shape
    distance, rows, columns = _path_tables(height, width, words.device)
    steps = distance.view(height, width, height, width).transpose(1, 2)  # [h,h,w,w]: rows, then columns of both
    start = words[:, :, None, :, None]
    stays = torch.ones(batch, height, height, width, width, dtype=torch.bool, device=words.device)
    for step in range(1, len(rows)):
        # Rows first, columns second, so that no table of all pairs of patches and points is needed.
        point = words[:, rows[step]][..., columns[step]]  # [B,h,h,w,w]
        is_inside = point == start
        stays &= is_inside if whole_path else is_inside | (steps < step)
    return stays.transpose(2, 3).reshape(batch, height * width, height * width)


@lru_cache(maxsize=8)
def _path_tables(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return the larger of row and column distance of two patches, [N,N], and the points of the lines between them.

    The points are rows [n+1,h,h] and columns [n+1,w,w], int64, of the start and the end in the last two axes.
    """
    largest = max(height, width) - 1
    with torch.inference_mode(False):  # autograd rejects inference tensors
        part = torch.linspace(0, 1, largest + 1)[:, None, None]
        # Half to even in float32, as published: the parity of a half decides, so lines are not invariant to shifts.
        rows, columns = (
            ((1 - part) * side[:, None] + part * side).round().long()
            for side in (torch.arange(height).float(), torch.arange(width).float())
        )
        down, right = (
            (torch.arange(side)[:, None] - torch.arange(side)).abs().float() for side in (height, width)
        )  # [h,h], [w,w]
        distance = torch.maximum(down[:, None, :, None], right[:, None]).flatten(2).flatten(0, 1)  # [h,w,h,w] to [N,N]
        return distance.to(device), rows.to(device), columns.to(device)


def _smoothing_kernel(patches: int) -> Tensor:
    """Return the Gaussian for rows of N patches, [1,1,K] with sum 1; K is N or 31 if that is less, odd by adding 1."""
    half = min(patches, _LONGEST_KERNEL) // 2
    weights = (-torch.arange(-half, half + 1).float().square() / (2 * _DEVIATION**2)).exp()
    return (weights / weights.sum())[None, None]
