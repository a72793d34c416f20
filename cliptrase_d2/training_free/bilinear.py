"""Bilinear upsampling of many maps of which only the winner is wanted.

Scores are known on a coarse grid, [C,h,w], and wanted as an argmax at H×W. Upsampling all C maps first costs
C·H·W numbers, nearly all of them losers. Inside one cell of the grid a score is a weighted mean of its four
corners, so a class that another one beats at all four corners cannot win anywhere in the cell. Few classes
survive that test, and only they are evaluated. The result is that of the dense computation; memory does not
grow with classes times pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_CORNER_VALUES = 2**24  # bound on the corner scores that are alive at once (64 MiB in float32)


@dataclass(frozen=True)
class _Axis:
    """One axis of the output, cut into the cells of the grid.

    Attributes:
        cell: [size] the grid cell of every output position; cell i lies between grid points i and i+1.
        slot: [size] the place of the position within its cell.
        far: [cells,slots] weight of the grid point i+1, in [0,1]; 0 in unused slots.
    """

    cell: Tensor
    slot: Tensor
    far: Tensor


def upsampled_argmax(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """``interpolate(scores, size, mode="bilinear").argmax(1)`` without the upsampled scores.

    Args:
        scores: [B,C,h,w], any real numbers; equal ones go to the smallest index.
        size: (H, W) of the result.
    Returns:
        [B,H,W] int64, 0 to C-1.
    """
    rows, columns = (_axis(grid, length, scores.device) for grid, length in zip(scores.shape[2:], size, strict=True))
    return torch.stack([_image_argmax(image.float(), rows, columns) for image in scores])


def region_weights(region: Tensor, count: int, grid: tuple[int, int]) -> Tensor:
    """How much every grid point contributes to the pixels of each region under bilinear upsampling.

    ``region_weights(...) @ scores`` is the sum over a region of the upsampled scores, again without upsampling.

    Args:
        region: [H,W] int64, the region 0 to count-1 of every pixel.
        count: number of regions, Q.
        grid: (h, w).
    Returns:
        [Q,h·w] float64, at least 0; a row sums to the pixels of its region.
    """
    height, width = region.shape
    rows, columns = _axis(grid[0], height, region.device), _axis(grid[1], width, region.device)
    far_y = rows.far[rows.cell, rows.slot].double()[:, None]  # [H,1]
    far_x = columns.far[columns.cell, columns.slot].double()[None, :]  # [1,W]
    weights = torch.zeros(count * grid[0] * grid[1], dtype=torch.float64, device=region.device)
    for step_y, weight_y in ((0, 1 - far_y), (1, far_y)):
        for step_x, weight_x in ((0, 1 - far_x), (1, far_x)):
            row = (rows.cell + step_y).clamp_max(grid[0] - 1)[:, None]
            column = (columns.cell + step_x).clamp_max(grid[1] - 1)[None, :]
            point = (region * grid[0] + row) * grid[1] + column  # [H,W]
            weights.index_add_(0, point.flatten(), (weight_y * weight_x).flatten())
    return weights.view(count, -1)  # [Q,h·w]


def _axis(grid: int, size: int, device: torch.device) -> _Axis:
    # float32 and this order of operations, because torch's own upsampling (align_corners off) has them.
    scale = torch.tensor(grid, dtype=torch.float32) / size
    source = (scale * (torch.arange(size, dtype=torch.float32) + 0.5) - 0.5).clamp_min(0)
    cell = source.long().clamp_max(grid - 1)
    slot = torch.arange(size) - torch.searchsorted(cell, cell)
    far = torch.zeros(grid, int(slot.max()) + 1)
    far[cell, slot] = source - cell
    return _Axis(cell.to(device), slot.to(device), far.to(device))


def _image_argmax(scores: Tensor, rows: _Axis, columns: _Axis) -> Tensor:
    classes, height, width = scores.shape
    band = max(1, _CORNER_VALUES // (4 * classes * width))  # grid rows at a time
    grown = torch.cat([scores, scores[:, -1:]], dim=1)  # cells of the last row and column have no far side
    grown = torch.cat([grown, grown[:, :, -1:]], dim=2).permute(1, 2, 0).contiguous()  # [h+1,w+1,C]
    winner = torch.empty(
        height, width, rows.far.shape[1], columns.far.shape[1], dtype=torch.int64, device=scores.device
    )
    for top in range(0, height, band):
        far_y = rows.far[top : top + band]
        winner[top : top + band] = _cell_winners(grown[top : top + len(far_y) + 1], far_y, columns.far)
    return winner[rows.cell[:, None], columns.cell[None, :], rows.slot[:, None], columns.slot[None, :]]  # [H,W]


def _cell_winners(points: Tensor, far_y: Tensor, far_x: Tensor) -> Tensor:
    """Winner at every slot of every cell of a band of grid rows.

    Args:
        points: [h+1,w+1,C] scores.  far_y: [h,Sy].  far_x: [w,Sx].
    Returns:
        [h,w,Sy,Sx] int64.
    """
    height, width = len(far_y), len(far_x)
    corners = torch.stack([points[:-1, :-1], points[:-1, 1:], points[1:, :-1], points[1:, 1:]], dim=2)
    corners = corners.view(height * width, 4, -1)  # [cells,4,C]
    cell, candidate, rank, count = _candidates(corners)
    order = count.argsort(descending=True)  # so that the cells with a k-th candidate are always the first ones
    place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    table = torch.zeros(len(order), int(count.max()), dtype=torch.int64, device=order.device)
    table[place[cell], rank] = candidate
    weight_y = far_y.repeat_interleave(width, 0)[order][:, :, None]  # [cells,Sy,1]
    weight_x = far_x.repeat(height, 1)[order][:, None, :]  # [cells,1,Sx]

    winner = table[:, :1, None].expand(-1, far_y.shape[1], far_x.shape[1]).clone()  # [cells,Sy,Sx]
    best = winner.new_empty(0, dtype=points.dtype)
    contested = [int(n) for n in (count[:, None] > torch.arange(table.shape[1], device=count.device)).sum(0)]
    for k, cells in enumerate(contested):
        cells = cells if k else (contested[1] if len(contested) > 1 else 0)  # a lone candidate needs no value
        value = _interpolate(corners[order[:cells], :, table[:cells, k]], weight_y[:cells], weight_x[:cells])
        if k == 0:
            best = value
            continue
        better = value > best[:cells]
        best[:cells] = torch.where(better, value, best[:cells])
        winner[:cells] = torch.where(better, table[:cells, k, None, None], winner[:cells])
    return winner[place].view(height, width, far_y.shape[1], far_x.shape[1])


def _candidates(corners: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The classes that may win somewhere in a cell, in ascending order.

    Args:
        corners: [cells,4,C].
    Returns:
        cell [K], class [K], rank of the class within its cell [K], and candidates per cell [cells] (>= 1).
    """
    weakest = corners.amin(1)  # [cells,C]
    bar, rival = weakest.max(1, keepdim=True)  # whoever never reaches the best minimum cannot win
    cell, candidate = (corners.amax(1) >= bar).nonzero(as_tuple=True)
    values = corners[cell, :, candidate]  # [K,4]
    rivals = torch.cat([rival, corners.argmax(2)], dim=1)  # [cells,5], the strongest in the cell and at each corner
    alive = torch.ones_like(cell, dtype=torch.bool)
    for other in rivals.T:
        other = other[cell]  # [K]
        gap = corners[cell, :, other] - values  # [K,4]
        alive &= ~((gap > 0).all(1) | ((gap >= 0).all(1) & (other < candidate)))
    cell, candidate = cell[alive], candidate[alive]
    count = torch.bincount(cell, minlength=len(corners))
    rank = torch.arange(len(cell), device=cell.device) - (count.cumsum(0) - count)[cell]
    return cell, candidate, rank, count


def _interpolate(corners: Tensor, far_y: Tensor, far_x: Tensor) -> Tensor:
    """Corner values [n,4] at the slots [n,Sy,1] and [n,1,Sx] -> [n,Sy,Sx]."""
    top_left, top_right, low_left, low_right = (corner[:, None, None] for corner in corners.unbind(1))
    near_x, near_y = 1 - far_x, 1 - far_y
    top = near_x * top_left + far_x * top_right  # [n,1,Sx]
    low = near_x * low_left + far_x * low_right
    return near_y * top + far_y * low
