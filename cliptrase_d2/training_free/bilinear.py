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

import torch
from torch import Tensor

_CORNER_VALUES = 2**24  # bound on the scores that are compared at once (64 MiB in float32)
_LEAF_PIXELS = 4  # cells with longer sides are quartered


@dataclass(frozen=True)
class _Axis:
    """One axis of the output, cut into the cells between grid points.

    The first cell lies before the first grid point, the last behind the last one; cell i lies between the points
    i - 1 and i. Every cell is cut into `parts` equal pieces.

    Attributes:
        parts: pieces of a cell, a power of 2.
        piece: [size] the piece that each output position lies in, 0 to cells·parts - 1.
        slot: [size] the place of the position within its piece.
        far: [cells·parts,slots] weight of the cell's second grid point, in [0,1]; 0 in unused slots.
    """

    parts: int
    piece: Tensor
    slot: Tensor
    far: Tensor


@dataclass(frozen=True)
class _Candidates:
    """The classes that may win in each of n pieces, ordered by piece and class.

    Attributes:
        row, column: [n] where the pieces lie, rows being counted on from image to image.
        piece: [K] the piece that a candidate stands in.
        label: [K] its class.
        corners: [K,4] its scores at the piece's corners: top left, top right, low left, low right.
        cell_corners: [K,4] those at the corners of the cell that the piece is part of.
    """

    row: Tensor
    column: Tensor
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
    images = max(1, _CORNER_VALUES // (classes * grid[0] * grid[1]))
    return torch.cat([_argmax(some.float(), rows, columns) for some in scores.split(images)])


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
            row = (rows.piece + step_y - 1).clamp(0, grid[0] - 1)[:, None]
            column = (columns.piece + step_x - 1).clamp(0, grid[1] - 1)[None, :]
            point = (region * grid[0] + row) * grid[1] + column  # [H,W]
            weights.index_add_(0, point.flatten(), (weight_y * weight_x).flatten())
    return weights.view(count, -1)  # [Q,h·w]


def _axis(grid: int, size: int, device: torch.device, parts: int = 1) -> _Axis:
    # float32 and this order of operations, because torch's own upsampling (align_corners off) has them.
    scale = torch.tensor(grid, dtype=torch.float32) / size
    source = scale * (torch.arange(size, dtype=torch.float32) + 0.5) - 0.5  # in grid points, -0.5 to grid - 0.5
    cell = source.floor()
    piece = ((source - cell) * parts).long() + (cell.long() + 1) * parts
    slot = torch.arange(size) - torch.searchsorted(piece, piece)
    far = torch.zeros((grid + 1) * parts, int(slot.max()) + 1)
    far[piece, slot] = torch.where(source < 0, 0, source - cell)  # before the first point all is as at that point
    return _Axis(parts, piece.to(device), slot.to(device), far.to(device))


def _argmax(scores: Tensor, rows: _Axis, columns: _Axis) -> Tensor:
    """[B,C,h,w] -> [B,H,W] int64."""
    images, classes, height, width = scores.shape
    points = scores.permute(0, 2, 3, 1).contiguous()  # [B,h,w,C]
    pieces = len(rows.far)  # of one image, from top to bottom
    slots = rows.far.shape[1], columns.far.shape[1]
    winner = torch.empty(images * pieces, len(columns.far), *slots, dtype=torch.int64, device=scores.device)
    cell_rows = images * (height + 1)
    band = max(1, _CORNER_VALUES // (classes * (width + 2)))  # of them at a time
    for top in range(0, cell_rows, band):
        candidates = _first_candidates(points, torch.arange(top, min(top + band, cell_rows), device=scores.device))
        for _ in range(rows.parts.bit_length() - 1):
            candidates = _quarter(candidates)
        row, column = candidates.row + top * rows.parts, candidates.column
        winner[row, column] = _winners(candidates, rows.far[row % pieces], columns.far[column])
    winner = winner.unflatten(0, (images, pieces))  # [B,pieces,pieces,slots,slots]
    return winner[:, rows.piece[:, None], columns.piece[None, :], rows.slot[:, None], columns.slot[None, :]]


def _first_candidates(points: Tensor, cell_row: Tensor) -> _Candidates:
    """Candidates in some rows of cells.

    Args:
        points: [B,h,w,C].
        cell_row: [m], of the B·(h+1) rows of cells; the candidates' rows are counted from the first of them on.
    """
    _, height, width, classes = points.shape
    image, row = cell_row // (height + 1), cell_row % (height + 1)
    # The border repeats, so that the cells outside the grid have corners too.
    upper, lower = (points[image, (row + step).clamp(0, height - 1)] for step in (-1, 0))  # [m,w,C]
    least, greatest = torch.minimum(upper, lower), torch.maximum(upper, lower)
    least = torch.cat([least[:, :1], torch.minimum(least[:, :-1], least[:, 1:]), least[:, -1:]], dim=1)  # [m,w+1,C]
    greatest = torch.cat([greatest[:, :1], torch.maximum(greatest[:, :-1], greatest[:, 1:]), greatest[:, -1:]], dim=1)
    bar, holder = least.max(2, keepdim=True)
    # Who only ever ties with the holder of the bar loses to it if its index is larger.
    labels = torch.arange(classes, device=points.device)
    line, column, label = ((greatest > bar) | ((greatest == bar) & (labels <= holder))).nonzero(as_tuple=True)
    beside = [(column + step).clamp(0, width - 1) for step in (-1, 0)]
    corners = torch.stack([of[line, at, label] for of in (upper, lower) for at in beside], dim=1)  # [K,4]
    cells = torch.arange(len(cell_row) * (width + 1), device=points.device)
    piece = line * (width + 1) + column
    return _Candidates(cells // (width + 1), cells % (width + 1), piece, label, corners, corners)


def _quarter(given: _Candidates) -> _Candidates:
    """The same in quarters of the pieces, without those that cannot win there."""
    values = given.corners.T.reshape(2, 2, -1)  # [y,x,K]
    values = torch.stack([values[0], (values[0] + values[1]) / 2, values[1]])  # [3,2,K]
    values = torch.stack([values[:, 0], (values[:, 0] + values[:, 1]) / 2, values[:, 1]], dim=1)  # [3,3,K]
    corners = torch.stack([values[:-1, :-1], values[:-1, 1:], values[1:, :-1], values[1:, 1:]])  # [4,y,x,K]
    pieces = len(given.row)
    least, greatest = corners.amin(0), corners.amax(0)  # [y,x,K]
    bar = least.new_full((2, 2, pieces), -torch.inf)
    bar.scatter_reduce_(2, given.piece.expand(2, 2, -1), least, "amax")
    y, x, parent = (greatest >= bar[:, :, given.piece]).nonzero(as_tuple=True)
    quarter = torch.arange(4 * pieces, device=y.device)
    return _Candidates(
        2 * given.row.repeat(4) + quarter // (2 * pieces),
        2 * given.column.repeat(4) + quarter // pieces % 2,
        (2 * y + x) * pieces + given.piece[parent],
        given.label[parent],
        corners[:, y, x, parent].T,
        given.cell_corners[parent],
    )


def _winners(candidates: _Candidates, far_y: Tensor, far_x: Tensor) -> Tensor:
    """Winner at every slot of every piece, [n,Sy,Sx] int64.

    Args:
        candidates: of n pieces, at least one each.
        far_y: [n,Sy] and far_x [n,Sx], weights of the second grid row and column.
    """
    piece = candidates.piece
    weight_y, weight_x = far_y[piece][:, :, None], far_x[piece][:, None, :]  # [K,Sy,1], [K,1,Sx]
    value = _interpolate(candidates.cell_corners, weight_y, weight_x)  # [K,Sy,Sx]
    slots = value.shape[1:]
    place = piece[:, None, None].expand_as(value)
    best = value.new_full((len(far_y), *slots), -torch.inf).scatter_reduce_(0, place, value, "amax")
    nobody = torch.iinfo(torch.int64).max
    label = torch.where(value == best[piece], candidates.label[:, None, None], nobody)
    return label.new_full((len(far_y), *slots), nobody).scatter_reduce_(0, place, label, "amin")


def _interpolate(corners: Tensor, far_y: Tensor, far_x: Tensor) -> Tensor:
    """Corner values [n,4] at the slots [n,Sy,1] and [n,1,Sx] -> [n,Sy,Sx]."""
    top_left, top_right, low_left, low_right = (corner[:, None, None] for corner in corners.unbind(1))
    near_x, near_y = 1 - far_x, 1 - far_y
    top = near_x * top_left + far_x * top_right  # [n,1,Sx]
    low = near_x * low_left + far_x * low_right
    return near_y * top + far_y * low
