"""Bilinear upsampling of many maps of which only the winner is wanted.

Scores are known on a coarse grid, [C,h,w], and wanted as an argmax at H×W. Upsampling all C maps first costs
C·H·W numbers, nearly all of them losers. Inside one cell of the grid a score stays between the least and the
greatest of its four corners, so a class whose greatest is below another one's least cannot win anywhere in the
cell. The survivors are asked again in the cell's quarters, where their corners lie closer together, until a few of
them are left in cells of a few pixels; only those are evaluated. The result is that of the dense computation;
memory does not grow with classes times pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

# Bound on the scores that are compared at once: what stays in a processor's cache; elsewhere 64 MiB in float32.
_CORNER_VALUES_CPU, _CORNER_VALUES = 2**19, 2**24
_LEAF_PIXELS = 4  # cells with longer sides are quartered


@dataclass(frozen=True)
class _Axis:
    """One axis of the output, cut into the cells between grid points.

    The first cell lies before the first grid point, the last behind the last one; cell i lies between the points
    i - 1 and i. Every cell is cut into `parts` equal pieces.

    Attributes:
        parts: pieces of a cell, a power of 2.
        points: [2,cells] the grid points before and behind each cell; the border repeats outside the grid.
        piece: [size] the piece that each output position lies in, 0 to cells·parts - 1.
        slot: [size] the place of the position within its piece.
        far: [cells·parts,slots] weight of the cell's second grid point, in [0,1]; 0 in unused slots.
    """

    parts: int
    points: Tensor
    piece: Tensor
    slot: Tensor
    far: Tensor


@dataclass(frozen=True)
class _Candidates:
    """The classes that may win in each piece; the pieces are counted row by row.

    Attributes:
        shape: rows and columns of pieces.
        piece: [K] the piece that a candidate stands in.
        label: [K] its class.
        corners: [2,2,K] its scores at the piece's corners, top and low, left and right.
        cell_corners: [2,2,K] those at the corners of the cell that the piece is part of.
    """

    shape: tuple[int, int]
    piece: Tensor
    label: Tensor
    corners: Tensor
    cell_corners: Tensor


def upsampled_argmax(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """``interpolate(scores, size, mode="bilinear").argmax(1)`` without the upsampled scores.

    Args:
        scores: [B,C,h,w], any real numbers; equal ones go to the smallest index.
        size: (H, W) of the result.
    Returns:
        [B,H,W] int64, 0 to C-1.
    """
    _, classes, *grid = scores.shape
    parts = 1
    while max(length / (points * parts) for length, points in zip(size, grid, strict=True)) > _LEAF_PIXELS:
        parts *= 2
    rows, columns = (_axis(points, length, scores.device, parts) for points, length in zip(grid, size, strict=True))
    values = _CORNER_VALUES_CPU if scores.device.type == "cpu" else _CORNER_VALUES
    images = max(1, values // (classes * grid[0] * grid[1]))
    band = max(1, values // (classes * (grid[1] + 2)))
    return _joined([_argmax(some.float(), rows, columns, band) for some in scores.split(images)])


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
    far_y = rows.far[rows.piece, rows.slot].double()[:, None]  # [H,1]
    far_x = columns.far[columns.piece, columns.slot].double()[None, :]  # [1,W]
    weights = torch.zeros(count * grid[0] * grid[1], dtype=torch.float64, device=region.device)
    for step_y, weight_y in ((0, 1 - far_y), (1, far_y)):
        for step_x, weight_x in ((0, 1 - far_x), (1, far_x)):
            row = rows.points[step_y, rows.piece][:, None]
            column = columns.points[step_x, columns.piece][None, :]
            point = (region * grid[0] + row) * grid[1] + column  # [H,W]
            weights.index_add_(0, point.flatten(), (weight_y * weight_x).flatten())
    return weights.view(count, -1)  # [Q,h·w]


@lru_cache(maxsize=64)  # images of one data set have few sizes
@torch.inference_mode(False)  # else those who train could not use what an evaluation has left here
def _axis(grid: int, size: int, device: torch.device, parts: int = 1) -> _Axis:
    # float32 and this order of operations, because torch's own upsampling (align_corners off) has them.
    scale = torch.tensor(grid, dtype=torch.float32) / size
    source = scale * (torch.arange(size, dtype=torch.float32) + 0.5) - 0.5  # in grid points, -0.5 to grid - 0.5
    cell = source.floor()
    piece = ((source - cell) * parts).long() + (cell.long() + 1) * parts
    slot = torch.arange(size) - torch.searchsorted(piece, piece)
    far = torch.zeros((grid + 1) * parts, int(slot.max()) + 1)
    far[piece, slot] = torch.where(source < 0, 0, source - cell)  # before the first point all is as at that point
    points = (torch.arange(grid + 1) + torch.tensor([[-1], [0]])).clamp(0, grid - 1)
    return _Axis(parts, points.to(device), piece.to(device), slot.to(device), far.to(device))


def _argmax(scores: Tensor, rows: _Axis, columns: _Axis, band: int) -> Tensor:
    """[B,C,h,w] -> [B,H,W] int64, so many rows of cells at a time."""
    images, _, height, _ = scores.shape
    points = scores.permute(0, 2, 3, 1).flatten(0, 1)  # [B·h,w,C]
    first = torch.arange(0, images * height, height, device=scores.device)[:, None]  # [B,1], of every image
    around = (rows.points[:, None] + first).flatten(1)  # [2,B·(h+1)]
    far = rows.far.T[:, None].expand(-1, images, -1).flatten(1)  # [slots,B·pieces]
    winners = []
    for some, far_y in zip(around.split(band, dim=1), far.split(band * rows.parts, dim=1), strict=True):
        candidates = _first_candidates(points[some[0]], points[some[1]], columns.points)
        for _ in range(rows.parts.bit_length() - 1):
            candidates = _quarter(candidates)
        winners.append(_winners(candidates, far_y, columns.far.T))
    winner = _joined(winners, 2).unflatten(2, (images, -1))  # [slots,slots,B,pieces,pieces]
    winner = winner[rows.slot[:, None], columns.slot, :, rows.piece[:, None], columns.piece]  # [H,W,B]
    return winner.permute(2, 0, 1)


def _first_candidates(upper: Tensor, lower: Tensor, around: Tensor) -> _Candidates:
    """Candidates in some rows of cells, the pieces being whole cells.

    Args:
        upper, lower: [m,w,C] the rows of grid points before and behind them.
        around: [2,w+1] the columns of grid points before and behind each cell.
    """
    least, greatest = torch.minimum(upper, lower), torch.maximum(upper, lower)
    least = torch.cat([least[:, :1], torch.minimum(least[:, :-1], least[:, 1:]), least[:, -1:]], dim=1)  # [m,w+1,C]
    greatest = torch.cat([greatest[:, :1], torch.maximum(greatest[:, :-1], greatest[:, 1:]), greatest[:, -1:]], dim=1)
    bar, holder = least.max(2, keepdim=True)
    # Who only ever ties with the holder of the bar loses to it if its index is larger.
    labels = torch.arange(least.shape[2], device=least.device)
    line, column, label = ((greatest > bar) | ((greatest == bar) & (labels <= holder))).nonzero(as_tuple=True)
    left, right = around[:, column]
    corners = torch.stack([of[line, at, label] for of in (upper, lower) for at in (left, right)])  # [4,K]
    cells = least.shape[1]
    corners = corners.view(2, 2, -1)
    return _Candidates((len(least), cells), line * cells + column, label, corners, corners)


def _quarter(given: _Candidates) -> _Candidates:
    """The same in quarters of the pieces, without those that cannot win there."""
    rows, columns = given.shape
    top, low = given.corners  # [2,K]
    values = torch.stack([top, (top + low) / 2, low])  # [3,2,K]
    left, right = values.unbind(1)
    values = torch.stack([left, (left + right) / 2, right], dim=1)  # [3,3,K]
    least, greatest = torch.minimum(values[:-1], values[1:]), torch.maximum(values[:-1], values[1:])  # [2,3,K]
    least = torch.minimum(least[:, :-1], least[:, 1:])  # [y,x,K]
    greatest = torch.maximum(greatest[:, :-1], greatest[:, 1:])
    bar = least.new_full((2, 2, rows * columns), -torch.inf)
    bar.scatter_reduce_(2, given.piece.expand(2, 2, -1), least, "amax")
    y, x, parent = (greatest >= bar[:, :, given.piece]).nonzero(as_tuple=True)
    first = 2 * (given.piece + given.piece // columns * columns)  # the quarter at the top left, in twice as wide rows
    corners = values.unfold(0, 2, 1).unfold(1, 2, 1).permute(3, 4, 0, 1, 2)  # [2,2,y,x,K]
    return _Candidates(
        (2 * rows, 2 * columns),
        first[parent] + 2 * columns * y + x,
        given.label[parent],
        corners[:, :, y, x, parent],
        given.cell_corners[:, :, parent],
    )


def _winners(candidates: _Candidates, far_y: Tensor, far_x: Tensor) -> Tensor:
    """Winner at every slot of every piece, [Sy,Sx,rows,columns] int64.

    Args:
        candidates: at least one for each piece.
        far_y: [Sy,rows] and far_x [Sx,columns], weights of the second grid row and column.
    """
    (rows, columns), piece = candidates.shape, candidates.piece
    weight_y, weight_x = far_y[:, None, piece // columns], far_x[None, :, piece % columns]  # [Sy,1,K], [1,Sx,K]
    value = _interpolate(candidates.cell_corners, weight_y, weight_x)  # [Sy,Sx,K]
    # The greatest value wins, among equal ones the smallest label: both in one number, of which one maximum is taken.
    key = (_ordered(value).long() << 32) - candidates.label
    best = key.new_full((*value.shape[:2], rows * columns), torch.iinfo(torch.int64).min)
    best.scatter_reduce_(2, piece.expand_as(key), key, "amax")
    return (-best & 0xFFFFFFFF).unflatten(2, (rows, columns))


def _ordered(values: Tensor) -> Tensor:
    """Float32 to int32 numbers of the same order; infinities included, and -0 as 0."""
    bits = (values + 0.0).view(torch.int32)
    return bits ^ (bits >> 31 & 0x7FFFFFFF)  # the bits of a negative float grow with its size


def _interpolate(corners: Tensor, far_y: Tensor, far_x: Tensor) -> Tensor:
    """Corner values [2,2,K] at the slots [Sy,1,K] and [1,Sx,K] -> [Sy,Sx,K]."""
    (top_left, top_right), (low_left, low_right) = corners
    near_x, near_y = 1 - far_x, 1 - far_y
    top = near_x * top_left + far_x * top_right  # [1,Sx,K]
    low = near_x * low_left + far_x * low_right
    return near_y * top + far_y * low


def _joined(parts: list[Tensor], dim: int = 0) -> Tensor:
    """What `torch.cat` gives; of one part no copy."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)
