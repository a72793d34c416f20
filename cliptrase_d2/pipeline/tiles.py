"""Tiles: segmentation of large images in parts, each segmented as an image of its own.

Patches of different tiles are not compared. Time therefore grows with the pixels instead of the square of the patches,
and memory is that of a few tiles. Tiles overlap, and each pixel is taken from the tile whose border is farthest away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby, islice, pairwise, product
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from cliptrase_d2.pipeline.windows import starts

Tile = TypeVar("Tile")
ReadRows = Callable[[slice], Tensor]
Segment = Callable[[Sequence[dict[str, Any]]], list[dict[str, Tensor]]]
_PIXELS_TOGETHER = 2**20  # small tiles are batched up to the pixels of a large one
_PIXEL_MAPS = ("label_map", "sem_seg", "assignment")


class Span(NamedTuple):
    """One side of a tile.

    Attributes:
        source: its pixels of the input image.
        result: the pixels of the image's result that the tile's result covers.
        core: the pixels of the image's result that are taken from this tile.
    """

    source: slice
    result: slice
    core: slice

    @property
    def core_in_result(self) -> slice:
        """The core, counted from the start of the tile's result."""
        return slice(self.core.start - self.result.start, self.core.stop - self.result.start)

    def scale(self, pixels: int, points: int) -> Span:
        """Return the span with a result of ``points`` instead of ``pixels``. The cores still cover it once."""
        parts = ((2 * edge * points + pixels) // (2 * pixels) for part in self[1:] for edge in (part.start, part.stop))
        first, last, begin, end = parts
        return Span(self.source, slice(first, last), slice(begin, end))


def divide_side(pixels: int, result: int, window: int, stride: int) -> list[Span]:
    """Divide one side of an image into overlapping tiles whose cores cover each pixel of the result once.

    Args:
        pixels: of the input image.
        result: pixels of the result.
        window: pixels of a tile. The last tile ends at the border.
        stride: pixels between the starts of tiles, at most ``window``.
    """
    window = min(window, pixels)
    first = starts(pixels, window, stride)
    middles = [start + window + after for start, after in pairwise(first)]  # of the overlaps, doubled
    bounds = [0, *((middle * result + pixels) // (2 * pixels) for middle in middles), result]
    places = [[(2 * pixel * result + pixels) // (2 * pixels) for pixel in (start, start + window)] for start in first]
    return [
        Span(slice(start, start + window), slice(*place), slice(begin, end))
        for start, place, (begin, end) in zip(first, places, pairwise(bounds), strict=True)
        if begin < end  # a result much smaller than the image has no pixel for some tiles
    ]


def segment_in_tiles(
    segment: Segment, batched_inputs: Sequence[dict[str, Any]], window: int, stride: int
) -> list[dict[str, Tensor]]:
    """Segment images tile by tile, in batches of about a megapixel, or of as many tiles as there are images.

    Args:
        segment: inputs to outputs of a model, independently of each other.
        batched_inputs: inputs of the model.
        window, stride: side and step of the tiles, in pixels of ``image``.
    Returns:
        For every image ``label_map`` [H,W]; if the model returns them, ``sem_seg`` [C,H,W], ``scores`` [C,h,w] on the
        grid of the whole image (where a tile starts between two grid points, its scores are shifted by less than half
        a point), ``assignment`` [H,W] to the
        masks of all tiles, numbered tile by tile, and ``mask_features`` [Q,D] of these masks. ``pred_masks``, which
        would have a value for every pixel and every mask of every tile, and ``pred_logits`` are left out.
    """
    tiles = [(member, *tile) for member, inputs in enumerate(batched_inputs) for tile in _tile(inputs, window, stride)]
    results = [_StitchedResult(inputs["image"].shape[1:], get_output_size(inputs)) for inputs in batched_inputs]
    together = max(len(batched_inputs), _PIXELS_TOGETHER // window**2)
    crops = ((tile, _crop(batched_inputs[tile[0]], *tile[1:])) for tile in tiles)
    for (member, rows, columns), output in _segment_each(segment, crops, together):
        results[member].add(output, rows, columns)
    return [result.to_output() for result in results]


def segment_rows(
    segment: Segment, read: ReadRows, inputs: Mapping[str, Any], size: tuple[int, int], window: int, stride: int
) -> Iterator[tuple[Span, Tensor]]:
    """Segment a large image from top to bottom, with few rows of its pixels in memory.

    The tiles and their batches, and therefore the labels, are those of ``segment_in_tiles``.

    Args:
        segment: inputs to outputs of a model, independently of each other.
        read: returns rows of the image, [3,n,W]. The rows of later calls begin lower.
        inputs: of the model, without ``image``, ``height`` and ``width``.
        size: (height, width) of the image, which is that of the result.
        window, stride: side and step of the tiles in pixels.
    Yields:
        The rows of a row of tiles, and the labels of its core, [n,W] int64.
    """
    rows_of_tiles, columns_of_tiles = (divide_side(pixels, pixels, window, stride) for pixels in size)

    def crop_tiles() -> Iterator[tuple[tuple[Span, Span], dict[str, Any]]]:
        for rows in rows_of_tiles:
            image = {**inputs, "image": read(rows.source)}
            for columns in columns_of_tiles:
                yield (rows, columns), _crop(image, rows._replace(source=slice(None)), columns)

    outputs = _segment_each(segment, crop_tiles(), max(1, _PIXELS_TOGETHER // window**2))
    for rows, tiles in groupby(outputs, key=lambda output: output[0][0]):
        parts = [output["label_map"][rows.core_in_result, columns.core_in_result] for (_, columns), output in tiles]
        yield rows, torch.cat(parts, dim=1)


def _segment_each(
    segment: Segment, tiles: Iterable[tuple[Tile, dict[str, Any]]], together: int
) -> Iterator[tuple[Tile, dict[str, Tensor]]]:
    """Yield each tile with its output, in batches of ``together`` tiles."""
    tiles = iter(tiles)
    while batch := list(islice(tiles, together)):
        outputs = segment([inputs for _, inputs in batch])
        yield from ((tile, output) for (tile, _), output in zip(batch, outputs, strict=True))


def get_output_size(inputs: Mapping[str, Any]) -> tuple[int, int]:
    """Return the size (H, W) of the result of an input."""
    height, width = inputs["image"].shape[1:]
    return inputs.get("height", height), inputs.get("width", width)


def _tile(inputs: dict[str, Any], window: int, stride: int) -> list[tuple[Span, Span]]:
    sides = zip(inputs["image"].shape[1:], get_output_size(inputs), strict=True)
    rows, columns = (divide_side(pixels, result, window, stride) for pixels, result in sides)
    return list(product(rows, columns))


def _crop(inputs: dict[str, Any], rows: Span, columns: Span) -> dict[str, Any]:
    """Return the input of one tile."""
    tile = {**inputs, "image": inputs["image"][:, rows.source, columns.source], "output_masks": False}
    tile |= {"height": rows.result.stop - rows.result.start, "width": columns.result.stop - columns.result.start}
    if "sem_seg" in inputs:
        tile["sem_seg"] = inputs["sem_seg"][rows.result, columns.result]
    return tile


class _StitchedResult:
    """The result of an image, to which tiles are added one by one.

    Args:
        source: (height, width) of the input image.
        size: (height, width) of the result.
    """

    def __init__(self, source: Sequence[int], size: tuple[int, int]):
        self.source, self.size = source, size
        self.pixels: dict[str, Tensor] = {}
        self.features: list[Tensor] = []
        self.masks = 0

    def add(self, output: dict[str, Tensor], rows: Span, columns: Span) -> None:
        """Copy the core of a tile's output."""
        for key in output.keys() & _PIXEL_MAPS:
            part = output[key][..., rows.core_in_result, columns.core_in_result]
            if key not in self.pixels:
                self.pixels[key] = part.new_empty((*part.shape[:-2], *self.size))
            self.pixels[key][..., rows.core, columns.core] = part + self.masks if key == "assignment" else part
        if "scores" in output:
            self._add_scores(output["scores"], rows, columns)
        if "mask_features" in output:
            self.features.append(output["mask_features"])
            self.masks += len(output["mask_features"])

    def _add_scores(self, scores: Tensor, rows: Span, columns: Span) -> None:
        """Copy the points of a tile's grid [C,h,w] that belong to its core."""
        tile = [span.source.stop - span.source.start for span in (rows, columns)]
        points = zip(self.source, scores.shape[1:], tile, strict=True)
        grid = [max(1, round(pixels * count / side)) for pixels, count, side in points]  # of the whole image
        if "scores" not in self.pixels:
            self.pixels["scores"] = scores.new_empty((len(scores), *grid))
        rows, columns = map(Span.scale, (rows, columns), self.size, grid)
        shape = [span.result.stop - span.result.start for span in (rows, columns)]
        if 0 not in shape:
            part = F.interpolate(scores[None], shape, mode="bilinear", align_corners=False)[0]  # mostly unchanged
            self.pixels["scores"][:, rows.core, columns.core] = part[:, rows.core_in_result, columns.core_in_result]

    def to_output(self) -> dict[str, Tensor]:
        """Return the stitched maps, with the features of all masks."""
        return {**self.pixels, "mask_features": torch.cat(self.features)} if self.features else self.pixels
