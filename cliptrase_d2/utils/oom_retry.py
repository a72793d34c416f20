"""Asks a model for as many images at a time as its memory holds."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from cliptrase_d2.utils.errors import InputError

logger = logging.getLogger(__name__)
# Main memory, Apple's GPUs and CUDA's libraries have no class of error for it.
_OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|_STATUS_ALLOC_FAILED")
Inputs = Mapping[str, Any]
Outputs = list[dict[str, Any]]


class OOMRetry:
    """Runs a model over batches, in parts that fit, each image with the result that it has alone.

    Images of one size go through the model together; others do not, for SAN pads the images of a batch to one size,
    which their results would show. Images that are too many at once go one by one, and so do batches of as many pixels
    from then on.

    Args:
        model: takes and returns Detectron2's list of dicts.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        self._too_many: float = math.inf  # pixels

    def __call__(self, inputs: Sequence[Inputs]) -> Iterator[tuple[list[int], Outputs | InputError]]:
        """Yield parts of the batch as they are done; whoever keeps no outputs has those of one part in memory.

        Args:
            inputs: with ``image`` [3,H,W], and ``file_name`` for the message.
        Yields:
            Which images, and their outputs; or one that does not fit by itself, and why it has none.
        """
        for members in _of_one_size(inputs):
            yield from self._part(inputs, members)

    def _part(self, inputs: Sequence[Inputs], members: list[int]) -> Iterator[tuple[list[int], Outputs | InputError]]:
        pixels = sum(inputs[member]["image"][0].numel() for member in members)
        if len(members) > 1 and pixels < self._too_many:
            outputs = self._outputs([inputs[member] for member in members])
            if outputs is not None:
                yield members, outputs
                return
            self._say(len(members))
            self._too_many = pixels
        for member in members:  # no variable keeps the outputs of one while the next is done
            yield [member], self._outputs([inputs[member]]) or _does_not_fit(inputs[member])

    def _outputs(self, inputs: list[Inputs]) -> Outputs | None:
        """None where the memory is too small."""
        try:
            return self.model(inputs)
        except RuntimeError as error:
            if not (isinstance(error, torch.OutOfMemoryError) or _OUT_OF_MEMORY.search(str(error))):
                raise
        # Out here, for as long as the error is known it holds on to what the model had.
        torch.cuda.empty_cache()
        return None

    def _say(self, images: int) -> None:
        if self._too_many == math.inf:
            logger.warning(
                "Out of memory with %d images at a time: they go one by one, and so do batches like it from now on. "
                "The results are the same; fewer at a time (TEST.BATCH_SIZE) would be quicker.",
                images,
            )


def _of_one_size(inputs: Sequence[Inputs]) -> list[list[int]]:
    sizes: dict[tuple[int, ...], list[int]] = {}
    for index, given in enumerate(inputs):
        sizes.setdefault(tuple(given["image"].shape), []).append(index)
    return list(sizes.values())


def _does_not_fit(given: Inputs) -> InputError:
    height, width = given["image"].shape[1:]
    got = (
        f"an image of {given.get('width', width)}x{given.get('height', height)} pixels, seen at {width}x{height}, "
        "for which the memory is too small"
    )
    fix = (
        "Lower INPUT.MIN_SIZE_TEST or INPUT.MAX_SIZE_TEST, set TEST.PROTOCOL tiles or MODEL.CLIP.PRECISION bf16, "
        "make the image smaller, or use MODEL.DEVICE cpu."
    )
    return InputError(given.get("file_name", "image"), got, fix, allowed="images that fit, one at a time")
