"""Retry of smaller batches when memory runs out."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.shared_results import forget_results

logger = logging.getLogger(__name__)
# Main memory, Apple's GPUs and CUDA's libraries have no error class of their own for it.
_OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|_STATUS_ALLOC_FAILED")
Inputs = Mapping[str, Any]
Outputs = list[dict[str, Any]]


class OOMRetry:
    """Runs a model over batches, in parts that fit into memory; each image has the result that it has alone.

    Only images of one size share a batch: SAN pads a batch to one size, which would change the results. If a batch
    does not fit, its images are run one by one, and so is every later batch of at least as many pixels.

    Args:
        model: takes and returns Detectron2's list of dicts.
    """

    def __init__(self, model: Callable[[list[Inputs]], Outputs]):
        self.model = model
        self._pixel_limit: float = math.inf  # the smallest batch that did not fit

    def __call__(self, inputs: Sequence[Inputs]) -> Iterator[tuple[list[int], Outputs | InputError]]:
        """Yield the parts of a batch as they finish; only the outputs of one part are in memory at a time.

        Args:
            inputs: with ``image`` [3,H,W], and ``file_name`` for the message.
        Yields:
            Indices of images and their outputs, or the index of an image that does not fit alone and its error.
        """
        by_size: dict[tuple[int, ...], list[int]] = {}
        for index, item in enumerate(inputs):
            by_size.setdefault(tuple(item["image"].shape), []).append(index)
        for indices in by_size.values():
            yield from self._run_size(inputs, indices)

    def _run_size(self, inputs: Sequence[Inputs], indices: list[int]) -> Iterator[tuple[list[int], Any]]:
        pixels = sum(inputs[index]["image"][0].numel() for index in indices)
        if len(indices) > 1 and pixels < self._pixel_limit:
            outputs = self._try([inputs[index] for index in indices])
            if outputs is not None:
                yield indices, outputs
                return
            if self._pixel_limit == math.inf:
                text = "Out of memory with %d images at a time: batches of this size are now run image by image."
                logger.warning(f"{text} The results are the same; a smaller TEST.BATCH_SIZE is faster.", len(indices))
            self._pixel_limit = pixels
        for index in indices:  # does not hold outputs across iterations
            yield [index], self._try([inputs[index]]) or _memory_error(inputs[index])

    def _try(self, inputs: list[Inputs]) -> Outputs | None:
        """Return the outputs, or None if memory runs out."""
        try:
            return self.model(inputs)
        except RuntimeError as error:
            if not (isinstance(error, torch.OutOfMemoryError) or _OUT_OF_MEMORY.search(str(error))):
                raise
        forget_results()
        torch.cuda.empty_cache()  # outside `except`, whose traceback keeps tensors alive
        return None


def _memory_error(item: Inputs) -> InputError:
    images = [item["image"], *item.get("views", ())]
    height, width = max((image.shape[1:] for image in images), key=math.prod)
    size = f"{item.get('width', width)}x{item.get('height', height)}"
    got = f"an image of {size} pixels, processed at {width}x{height}, does not fit into memory"
    fix = (
        "Lower INPUT.MIN_SIZE_TEST or INPUT.MAX_SIZE_TEST, or those of TEST.AUG, set TEST.PROTOCOL tiles or "
        "MODEL.CLIP.PRECISION bf16, make the image smaller, or use MODEL.DEVICE cpu."
    )
    return InputError(item.get("file_name", "image"), got, fix)
