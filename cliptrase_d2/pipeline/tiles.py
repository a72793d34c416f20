"""Images of any size in tiles, each of which is segmented as an image of its own.

Patches of different tiles never meet: time grows with the pixels, where otherwise it grows with the square of the
patches, and memory is that of some tiles. They overlap, and a pixel has the result of the one in which it lies deepest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise, product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cliptrase_d2.pipeline.windows import starts

Segment = Callable[[Sequence[dict[str, Any]]], list[dict[str, Tensor]]]
_PIXELS_TOGETHER = 2**20  # small tiles go several at a time, together no larger than a large one
_OF_PIXELS = ("label_map", "sem_seg", "assignment")


class Span(NamedTuple):
    """One side of a tile.

    Attributes:
        seen: its pixels of the image that the model is given.
        result: those of the whole result that its own result covers.
        kept: those of the whole result that are its own.
    """

    seen: slice
    result: slice
    kept: slice

    @property
    def kept_of_its_result(self) -> slice:
        """What is kept, counted from where its result begins."""
        return slice(self.kept.start - self.result.start, self.kept.stop - self.result.start)


def spans(seen: int, shown: int, window: int, stride: int) -> list[Span]:
    """Divide one side of an image into overlapping tiles, and the result of it among them, every pixel once.

    Args:
        seen: pixels of the image that the model is given.
        shown: pixels of the result.
        window: pixels of a tile; the last one ends with the image.
        stride: pixels from tile to tile, at most ``window``.
    """
    window = min(window, seen)
    first = starts(seen, window, stride)
    middles = [start + window + after for start, after in pairwise(first)]  # doubled
    bounds = [0, *((middle * shown + seen) // (2 * seen) for middle in middles), shown]
    places = [[(2 * pixel * shown + seen) // (2 * seen) for pixel in (start, start + window)] for start in first]
    return [
        Span(slice(start, start + window), slice(*place), slice(begin, end))
        for start, place, (begin, end) in zip(first, places, pairwise(bounds), strict=True)
        if begin < end  # a result much smaller than the image has no pixel for some
    ]


def segment_in_tiles(
    segment: Segment, batched_inputs: Sequence[dict[str, Any]], window: int, stride: int
) -> list[dict[str, Tensor]]:
    """Segment images tile by tile, as many tiles at a time as make a megapixel, or as there are images.

    Args:
        segment: inputs -> outputs of a model, each as if it were alone.
        batched_inputs: its inputs.
        window, stride: side and step of the tiles, in pixels of ``image``.
    Returns:
        For every image ``label_map`` [H,W]; where the model gives them, ``sem_seg`` [C,H,W], ``assignment`` [H,W] to
        the masks of all tiles, one tile's after the other's, and ``mask_features`` [Q,D] of these. No ``pred_masks``,
        which would hold every pixel for every mask of every tile, nor their ``pred_logits``.
    """
    tiles = [(member, *tile) for member, given in enumerate(batched_inputs) for tile in _tiles(given, window, stride)]
    wholes = [_Whole(output_size(given)) for given in batched_inputs]
    together = max(len(batched_inputs), _PIXELS_TOGETHER // window**2)
    for first in range(0, len(tiles), together):
        some = tiles[first : first + together]
        outputs = segment([_cut_out(batched_inputs[member], rows, columns) for member, rows, columns in some])
        for (member, rows, columns), output in zip(some, outputs, strict=True):
            wholes[member].take(output, rows, columns)
    return [whole.output() for whole in wholes]


def output_size(given: dict[str, Any]) -> tuple[int, int]:
    """(H, W) of the result that an input asks for."""
    height, width = given["image"].shape[1:]
    return given.get("height", height), given.get("width", width)


def _tiles(given: dict[str, Any], window: int, stride: int) -> list[tuple[Span, Span]]:
    sides = zip(given["image"].shape[1:], output_size(given), strict=True)
    rows, columns = (spans(seen, shown, window, stride) for seen, shown in sides)
    return list(product(rows, columns))


def _cut_out(given: dict[str, Any], rows: Span, columns: Span) -> dict[str, Any]:
    """A tile as an input of its own."""
    tile = {**given, "image": given["image"][:, rows.seen, columns.seen], "output_masks": False}
    tile |= {"height": rows.result.stop - rows.result.start, "width": columns.result.stop - columns.result.start}
    if "sem_seg" in given:
        tile["sem_seg"] = given["sem_seg"][rows.result, columns.result]
    return tile


class _Whole:
    """The result of an image, filled tile by tile."""

    def __init__(self, size: tuple[int, int]):
        self.size = size
        self.pixels: dict[str, Tensor] = {}
        self.features: list[Tensor] = []
        self.masks = 0

    def take(self, output: dict[str, Tensor], rows: Span, columns: Span) -> None:
        """Keep a tile's own part of its output."""
        for key in output.keys() & _OF_PIXELS:
            part = output[key][..., rows.kept_of_its_result, columns.kept_of_its_result]
            if key not in self.pixels:
                self.pixels[key] = part.new_empty((*part.shape[:-2], *self.size))
            self.pixels[key][..., rows.kept, columns.kept] = part + self.masks if key == "assignment" else part
        if "mask_features" in output:
            self.features.append(output["mask_features"])
            self.masks += len(output["mask_features"])

    def output(self) -> dict[str, Tensor]:
        """All that was kept."""
        return {**self.pixels, "mask_features": torch.cat(self.features)} if self.features else self.pixels
