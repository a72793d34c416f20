"""Argmax of bilinearly upsampled maps, without the upsampled maps.

Scores are given on a coarse grid, [C,h,w], and their argmax is needed at H×W. Dense upsampling would compute C·H·W
scores, nearly all of them of losing classes. Within a cell of the grid a score lies between the least and the greatest
of its four corners. A class whose greatest corner is below the least corner of another class therefore cannot win in
that cell. The remaining classes are tested again in the quarters of the cell, whose corners are closer together, until
few classes remain in cells of a few pixels. Only those are evaluated. The result equals that of the dense computation,
and memory does not grow with classes times pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

# Bound on the scores that are compared at once: a CPU's cache, or 64 MiB of float32 on other devices.
_CORNER_VALUES_CPU, _CORNER_VALUES = 2**19, 2**24
_BAND_PIXELS = 2**19  # whose scores are interpolated at once
_LEAF_PIXELS = 4  # cells with longer sides are quartered


@dataclass(frozen=True)
class _Axis:
    """One axis of the output, divided into the cells between grid points.

    The first cell lies before the first grid point, the last cell behind the last one. Cell i lies between the points
    i - 1 and i. Every cell is divided into `parts` equal pieces.

    Attributes:
        parts: pieces of a cell, a power of 2.
        points: [2,cells] the grid points before and behind each cell; the border repeats outside the grid.
        piece: [size] the piece of each output position, 0 to cells·parts - 1.
        slot: [size] the index of the position in its piece.
        far: [cells·parts,slots] weight of the cell's second grid point, in [0,1]; 0 in unused slots.
        first: [cells·parts] the first position of each piece.
        count: [cells·parts] the number of its positions, which may be 0.
    """

    parts: int
    points: Tensor
    piece: Tensor
    slot: Tensor
    far: Tensor
    first: Tensor
    count: Tensor


@dataclass(frozen=True)
class _Candidates:
    """The classes that may win in a piece. Pieces are numbered row by row. Those with a known winner may be absent.

    Attributes:
        shape: rows and columns of pieces.
        piece: [K] the piece of each candidate.
        label: [K] its class.
        corners: [2,2,K] its scores at the piece's corners, top and bottom, left and right.
        cell_corners: [2,2,K] its scores at the corners of the cell that contains the piece.
    """

    shape: tuple[int, int]
    piece: Tensor
    label: Tensor
    corners: Tensor
    cell_corners: Tensor


def upsampled_argmax(scores: Tensor, size: tuple[int, int], names: Tensor | None = None) -> Tensor:
    """Return ``interpolate(scores, size, mode="bilinear").argmax(1)`` without the upsampled scores.

    Args:
        scores: [B,C,h,w], real numbers. The smallest index of equal ones wins.
        size: (H, W) of the result.
        names: [C] int64, returned in place of the classes; None for 0 to C-1.
    Returns:
        [B,H,W] int64.
    """
    _, classes, *grid = scores.shape
    parts = 1
    while max(length / (points * parts) for length, points in zip(size, grid, strict=True)) > _LEAF_PIXELS:
        parts *= 2
    rows, columns = (
        _build_axis(points, length, scores.device, parts) for points, length in zip(grid, size, strict=True)
    )
    values = _CORNER_VALUES_CPU if scores.device.type == "cpu" else _CORNER_VALUES
    images = max(1, values // (classes * grid[0] * grid[1]))
    band = max(1, values // (classes * (grid[1] + 2)))
    return _concatenate([_argmax(chunk.float(), rows, columns, band, names) for chunk in scores.split(images)])


def region_weights(region: Tensor, count: int, grid: tuple[int, int]) -> Tensor:
    """Return the contribution of every grid point to the pixels of each region under bilinear upsampling.

    ``region_weights(...) @ scores`` is the sum of the upsampled scores over each region, computed without upsampling.

    Args:
        region: [H,W] int64, the region 0 to count-1 of every pixel.
        count: number of regions, Q.
        grid: (h, w).
    Returns:
        [Q,h·w] float64, at least 0. Each row sums to the number of pixels of its region.
    """
    height, width = region.shape
    rows, columns = _build_axis(grid[0], height, region.device), _build_axis(grid[1], width, region.device)
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


def upsampled_at(scores: Tensor, labels: Tensor) -> Tensor:
    """Return ``interpolate(scores, size, mode="bilinear")`` at the class of each pixel, without the upsampled scores.

    Args:
        scores: [C,h,w] float32.
        labels: [H,W] int64, a class of every pixel, or -1 for none.
    Returns:
        [H,W] float32; NaN where the label is -1.
    """
    return torch.cat([values for _, values in _upsample_bands(scores, labels)])


def upsampled_sums(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of ``upsampled_at`` over the pixels of each class, [C] float64, and their number, [C] int64."""
    sums = torch.zeros(len(scores) + 1, dtype=torch.float64, device=scores.device)  # the last one is that of -1
    pixels = torch.zeros(len(scores) + 1, dtype=torch.int64, device=scores.device)
    for part, values in _upsample_bands(scores, labels):
        index = torch.where(part < 0, len(scores), part).flatten()
        sums += torch.bincount(index, values.flatten().double(), minlength=len(sums))
        pixels += torch.bincount(index, minlength=len(sums))
    return sums[:-1], pixels[:-1]


def upsampled_rows(scores: Tensor, size: tuple[int, int], start: int, stop: int) -> Tensor:
    """Return the rows ``start`` to ``stop - 1`` of ``interpolate(scores, size)``, bilinear, [C,h,w] to [C,n,W]."""
    axis = _build_axis(scores.shape[1], size[0], scores.device)
    piece, slot = axis.piece[start:stop], axis.slot[start:stop]
    far = axis.far[piece, slot][:, None]  # [n,1]
    rows = (1 - far) * scores[:, axis.points[0, piece]] + far * scores[:, axis.points[1, piece]]  # [C,n,w]
    return F.interpolate(rows[None], (len(piece), size[1]), mode="bilinear", align_corners=False)[0]


def _upsample_bands(scores: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the labels of a few rows and the scores of ``upsampled_at`` there, from the top."""
    _, height, width = scores.shape
    rows, columns = (
        _build_axis(points, length, scores.device) for points, length in zip((height, width), labels.shape, strict=True)
    )
    around = scores[:, rows.points][:, :, :, columns.points]  # [C,2,h+1,2,w+1]
    corners = around.permute(0, 2, 4, 1, 3).reshape(-1, 4)  # [C·(h+1)·(w+1),4]
    far_x = columns.far[columns.piece, columns.slot]  # [W]
    count = max(1, _BAND_PIXELS // labels.shape[1])
    cells = (height + 1) * (width + 1)
    for part, piece, slot in zip(labels.split(count), rows.piece.split(count), rows.slot.split(count), strict=True):
        # The index of -1 is that of the last class, whose value is replaced.
        cell = torch.add(piece[:, None] * (width + 1) + columns.piece, part, alpha=cells)
        far_y = rows.far[piece, slot][:, None]  # [rows,1]
        values = _interpolate(corners[cell].movedim(2, 0).unflatten(0, (2, 2)), far_y, far_x)
        yield part, values.masked_fill_(part < 0, torch.nan)


@lru_cache(maxsize=64)  # the images of a data set have few sizes
@torch.inference_mode(False)  # training cannot use inference tensors that an evaluation has cached
def _build_axis(grid: int, size: int, device: torch.device, parts: int = 1) -> _Axis:
    # In float32 and in this order of operations, as torch's own upsampling (align_corners off).
    scale = torch.tensor(grid, dtype=torch.float32) / size
    source = scale * (torch.arange(size, dtype=torch.float32) + 0.5) - 0.5  # in grid points, -0.5 to grid - 0.5
    cell = source.floor()
    piece = ((source - cell) * parts).long() + (cell.long() + 1) * parts
    slot = torch.arange(size) - torch.searchsorted(piece, piece)
    far = torch.zeros((grid + 1) * parts, int(slot.max()) + 1)
    far[piece, slot] = torch.where(source < 0, 0, source - cell)  # constant before the first point
    points = (torch.arange(grid + 1) + torch.tensor([[-1], [0]])).clamp(0, grid - 1)
    count = torch.bincount(piece, minlength=len(far))
    first = count.cumsum(0) - count
    return _Axis(parts, *(part.to(device) for part in (points, piece, slot, far, first, count)))


def _argmax(scores: Tensor, rows: _Axis, columns: _Axis, band: int, names: Tensor | None) -> Tensor:
    """Return the argmax, [B,C,h,w] to [B,H,W] int64, in bands of `band` rows of cells."""
    images, _, height, _ = scores.shape
    points = scores.permute(0, 2, 3, 1).flatten(0, 1)  # [B·h,w,C]
    first = torch.arange(0, images * height, height, device=scores.device)[:, None]  # [B,1], of every image
    around = (rows.points[:, None] + first).flatten(1)  # [2,B·(h+1)]
    far = rows.far.T[:, None].expand(-1, images, -1).flatten(1)  # [slots,B·pieces]
    labels, contested, winners, start = [], [], [], 0
    for lines, far_y in zip(around.split(band, dim=1), far.split(band * rows.parts, dim=1), strict=True):
        candidates = _find_candidates(points[lines[0]], points[lines[1]], columns.points)
        # Zeros, because points with NaN settle no label; the model rejects them later, since checks make a GPU wait.
        candidates, label = _settle(candidates, candidates.label.new_zeros(candidates.shape))
        for _ in range(rows.parts.bit_length() - 1):
            label = label.repeat_interleave(2, 0).repeat_interleave(2, 1)
            candidates, label = _settle(_quarter_pieces(candidates), label)
        piece, winner = _find_winners(candidates, far_y, columns.far.T)
        labels.append(label)
        contested.append(piece + start)
        winners.append(winner)
        start += label.numel()
    label, winner = _concatenate(labels), _concatenate(winners, 2)  # [B·pieces,pieces], [slots,slots,P]
    if names is not None:
        label, winner = names[label], names[winner]
    result = label.unflatten(0, (images, -1))[:, rows.piece[:, None], columns.piece]  # [B,H,W]
    _fill_pieces(result, _concatenate(contested), winner, rows, columns)
    return result


def _settle(candidates: _Candidates, labels: Tensor) -> tuple[_Candidates, Tensor]:
    """Note the winners of the pieces with one candidate in labels [rows,columns], and keep the other candidates."""
    flat = labels.flatten()
    flat[candidates.piece] = candidates.label  # one of several candidates is replaced later
    is_open = torch.bincount(candidates.piece, minlength=flat.numel()) > 1
    kept = is_open[candidates.piece].nonzero()[:, 0]
    return _Candidates(
        candidates.shape,
        candidates.piece[kept],
        candidates.label[kept],
        candidates.corners[:, :, kept],
        candidates.cell_corners[:, :, kept],
    ), flat.view_as(labels)


def _fill_pieces(result: Tensor, pieces: Tensor, winners: Tensor, rows: _Axis, columns: _Axis) -> None:
    """Write the winners [Sy,Sx,P] of the slots of pieces [P] to their pixels in [B,H,W], in place."""
    line, column = pieces // len(columns.first), pieces % len(columns.first)
    image, row = line // len(rows.first), line % len(rows.first)
    y_slot, x_slot = (torch.arange(slots, device=pieces.device)[:, None] for slots in winners.shape[:2])
    y, x = rows.first[row] + y_slot, columns.first[column] + x_slot  # [Sy,P], [Sx,P]
    y_slot, x_slot, place = ((y_slot < rows.count[row])[:, None] & (x_slot < columns.count[column])).nonzero().T
    result[image[place], y[y_slot, place], x[x_slot, place]] = winners[y_slot, x_slot, place]


def _find_candidates(upper: Tensor, lower: Tensor, around: Tensor) -> _Candidates:
    """Find the candidates in rows of cells, with whole cells as pieces.

    Args:
        upper, lower: [m,w,C] the rows of grid points before and behind the cells.
        around: [2,w+1] the columns of grid points before and behind each cell.
    """
    least, greatest = torch.minimum(upper, lower), torch.maximum(upper, lower)
    least = torch.cat([least[:, :1], torch.minimum(least[:, :-1], least[:, 1:]), least[:, -1:]], dim=1)  # [m,w+1,C]
    greatest = torch.cat([greatest[:, :1], torch.maximum(greatest[:, :-1], greatest[:, 1:]), greatest[:, -1:]], dim=1)
    bar, holder = least.max(2, keepdim=True)
    # A class that can at best tie with the holder of the bar loses to it unless its index is lower.
    labels = torch.arange(least.shape[2], device=least.device)
    line, column, label = ((greatest > bar) | ((greatest == bar) & (labels <= holder))).nonzero(as_tuple=True)
    left, right = around[:, column]
    corners = torch.stack([row[line, point, label] for row in (upper, lower) for point in (left, right)])  # [4,K]
    cells = least.shape[1]
    corners = corners.view(2, 2, -1)  # [2,2,K]
    return _Candidates((len(least), cells), line * cells + column, label, corners, corners)


def _quarter_pieces(candidates: _Candidates) -> _Candidates:
    """Divide each piece into quarters, without the candidates that cannot win there."""
    rows, columns = candidates.shape
    top, bottom = candidates.corners  # [2,K]
    values = torch.stack([top, (top + bottom) / 2, bottom])  # [3,2,K]
    left, right = values.unbind(1)
    values = torch.stack([left, (left + right) / 2, right], dim=1)  # [3,3,K]
    least, greatest = torch.minimum(values[:-1], values[1:]), torch.maximum(values[:-1], values[1:])  # [2,3,K]
    least = torch.minimum(least[:, :-1], least[:, 1:])  # [y,x,K]
    greatest = torch.maximum(greatest[:, :-1], greatest[:, 1:])
    bar = least.new_full((2, 2, rows * columns), -torch.inf)
    bar.scatter_reduce_(2, candidates.piece.expand(2, 2, -1), least, "amax")
    y, x, parent = (greatest >= bar[:, :, candidates.piece]).nonzero(as_tuple=True)
    # The top left quarter of each piece, in rows that are twice as wide.
    first = 2 * (candidates.piece + candidates.piece // columns * columns)
    corners = values.unfold(0, 2, 1).unfold(1, 2, 1).permute(3, 4, 0, 1, 2)  # [2,2,y,x,K]
    return _Candidates(
        (2 * rows, 2 * columns),
        first[parent] + 2 * columns * y + x,
        candidates.label[parent],
        corners[:, :, y, x, parent],
        candidates.cell_corners[:, :, parent],
    )


def _find_winners(candidates: _Candidates, far_y: Tensor, far_x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the pieces that have candidates, [P], and the winner at every slot of them, [Sy,Sx,P] int64.

    Args:
        candidates: of the pieces.
        far_y: [Sy,rows], weights of the second grid row.
        far_x: [Sx,columns], weights of the second grid column.
    """
    columns, piece = candidates.shape[1], candidates.piece
    weight_y, weight_x = far_y[:, None, piece // columns], far_x[None, :, piece % columns]  # [Sy,1,K], [1,Sx,K]
    value = _interpolate(candidates.cell_corners, weight_y, weight_x)  # [Sy,Sx,K]
    # The greatest value wins, and of equal ones the smallest label. One integer holds both, so one maximum suffices.
    key = (_to_ordered_int(value).long() << 32) - candidates.label
    pieces, place = piece.unique(return_inverse=True)
    best = key.new_full((*value.shape[:2], len(pieces)), torch.iinfo(torch.int64).min)
    best.scatter_reduce_(2, place.expand_as(key), key, "amax")
    return pieces, -best & 0xFFFFFFFF


def _to_ordered_int(values: Tensor) -> Tensor:
    """Map float32 to int32 of the same order, infinities included, with -0 equal to 0."""
    bits = (values + 0.0).view(torch.int32)
    return bits ^ (bits >> 31 & 0x7FFFFFFF)  # the bits of a negative float grow with its magnitude


def _interpolate(corners: Tensor, far_y: Tensor, far_x: Tensor) -> Tensor:
    """Interpolate corner values [2,2,…] at weights of the second row and column that broadcast with them."""
    (top_left, top_right), (bottom_left, bottom_right) = corners
    near_x, near_y = 1 - far_x, 1 - far_y
    top = near_x * top_left + far_x * top_right  # [1,Sx,K]
    bottom = near_x * bottom_left + far_x * bottom_right
    return near_y * top + far_y * bottom


def _concatenate(parts: list[Tensor], dim: int = 0) -> Tensor:
    """Concatenate tensors. A single one is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)
