"""Segmenting images from Python, any vocabulary, one call."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cliptrase_d2.config import load_config
from cliptrase_d2.data.image_files import MAX_PIXELS, check_bound
from cliptrase_d2.data.protocol import Protocol
from cliptrase_d2.segmenter.build import Segmenting, build_segmenter
from cliptrase_d2.segmenter.device import resolve_device
from cliptrase_d2.segmenter.image_input import ImageLike, rgb_pixels, several_images
from cliptrase_d2.segmenter.prefetch import in_batches, read_ahead
from cliptrase_d2.segmenter.result import SegmentationResult
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.oom_retry import OOMRetry
from cliptrase_d2.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

# For images of any size, where the user names no file: what configs/cliptrase/vit_b16_whole.yaml says.
_DEFAULTS = (
    *("TEST.PROTOCOL", "whole"),
    *("INPUT.MIN_SIZE_TEST", "336"),
    *("INPUT.MAX_SIZE_TEST", "1344"),
    *("MODEL.CLIPTRASE.ADAPTIVE_DBSCAN", "True"),
)


class Segmenter:
    """Segments images into classes that are named with them.

    >>> segmenter = Segmenter.from_config("configs/emoji_scenes.yaml")
    >>> result = segmenter("datasets/emoji_scenes/images/seen_010.webp", ["soccer ball", "red book", "water"])
    >>> result.label_map.shape
    (224, 224)
    >>> max(result.shares(), key=result.shares().get)
    'water'

    Args:
        model: in evaluation mode, where it is to run.
        protocol: ``center_crop``, ``whole``, ``slide`` or ``tiles``; the last two need a model built with windows.
        short_side: pixels at which the model sees the short side of an image; 0, for ``tiles`` only: as many as it has.
        max_size: most pixels of the long side; not used by ``center_crop``.
        max_pixels: most of a file or a PIL image that is decoded; 0 for no bound.
    Raises:
        InputError: an unknown protocol, or sizes that do not fit the model's patches.
    """

    def __init__(
        self, *, model: Segmenting, protocol: str, short_side: int, max_size: int, max_pixels: int = MAX_PIXELS
    ):
        self.model = model
        self._in_parts = OOMRetry(model)
        self.max_pixels = check_bound(max_pixels)
        self.protocol = Protocol(protocol, short_side, max_size, model.patch_multiple, model.resampling)

    @classmethod
    def from_config(cls, path: str | os.PathLike[str] | None = None, opts: Sequence[str] = ()) -> Segmenter:
        """Build the model of a configuration, with its weights, on its device (the CPU where CUDA is missing).

        Args:
            path: YAML file; None for ViT-B/16 with OpenAI's weights on whole images of any size.
            opts: KEY, VALUE, KEY, VALUE, …
        Raises:
            InputError: a key, value, weight file or device that cannot be used.
        """
        cfg = load_config(path, opts) if path else load_config(options=(*_DEFAULTS, *opts))
        if resolve_device(cfg):
            logger.info("No CUDA device was found: running on the CPU.")
        cfg.freeze()
        return cls(
            model=build_segmenter(cfg),
            protocol=cfg.TEST.PROTOCOL,
            short_side=cfg.INPUT.MIN_SIZE_TEST,
            max_size=cfg.INPUT.MAX_SIZE_TEST,
            max_pixels=cfg.INPUT.MAX_PIXELS,
        )

    def __repr__(self) -> str:
        side = self.protocol.short_side
        shown = f"{self.protocol.name} at {f'{side} pixels' if side else 'the size of the image'}"
        return f"Segmenter({type(self.model).__name__}, {shown}, {self.device})"

    @property
    def device(self) -> torch.device:
        """Where the model runs; images may lie anywhere."""
        return self.model.device

    def __call__(self, image: ImageLike, classes: Sequence[str], background: Sequence[str] = ()) -> SegmentationResult:
        """Segment one image.

        Args:
            image: a path, a PIL image, a uint8 array, grey [H,W], RGB [H,W,3] or RGBA [H,W,4], or a uint8 tensor
                with the channels first, [1,H,W], [3,H,W] or [4,H,W]. Alpha is dropped; an EXIF orientation is applied.
            classes: names to look for, "a;b" are synonyms of one class.
            background: prompts of a last class "background"; none for no such class.
        Raises:
            InputError: an image or a vocabulary that cannot be used.
        """
        vocabulary = Vocabulary.parse(classes, background, where="classes")
        return self._segment([self._view(image, "image")], vocabulary)[0]

    def batch(
        self, images: Iterable[ImageLike], classes: Sequence[str], background: Sequence[str] = ()
    ) -> list[SegmentationResult]:
        """Segment several images at once; each result is that of a single call, but for the rounding of floats.

        Those that the model sees at one size go through it together, so memory grows with their number: for more
        than some dozens see `stream`.

        Args:
            images: each as in a single call, of any sizes.
            classes, background: as in a single call, for all of them.
        Returns:
            The results, in the order of the images.
        Raises:
            InputError: an image, called ``images[3]`` if it has no path, or a vocabulary that cannot be used.
        """
        vocabulary = Vocabulary.parse(classes, background, where="classes")
        views = [self._numbered_view(numbered) for numbered in enumerate(several_images(images))]
        return self._segment(views, vocabulary)

    def stream(
        self,
        images: Iterable[ImageLike],
        classes: Sequence[str],
        background: Sequence[str] = (),
        *,
        batch_size: int = 1,
    ) -> Generator[SegmentationResult, None, None]:
        """Segment any number of images one after the other, the next being read while the last is segmented.

        >>> segmenter = Segmenter.from_config("configs/emoji_scenes.yaml")
        >>> files = [f"datasets/emoji_scenes/images/seen_00{index}.webp" for index in range(3)]
        >>> for result in segmenter.stream(files, ["grass", "sand", "water"]):
        ...     print(result.label_map.shape)
        (224, 224)
        (224, 224)
        (224, 224)

        Nothing happens before the first result is asked for, and images are taken at most twice ``batch_size`` ahead
        of their results, in a thread of their own. It ends with the iterator, which ``close()`` ends early.

        Args:
            images: each as in a single call; a generator of endless frames, too.
            classes, background: as in a single call, for all of them.
            batch_size: images that are segmented together, 1 or more; no result comes before all of them are there.
        Yields:
            The results, in the order of the images. The error of an image, or of the iterable, comes in its place,
            after the results of all images before it, and ends the iterator.
        Raises:
            InputError: a vocabulary or a batch size that cannot be used; while iterating, an image.
        """
        vocabulary = Vocabulary.parse(classes, background, where="classes")
        if batch_size < 1:
            raise InputError("batch_size", batch_size, "Use 1 for one image after the other.", allowed="1 or more")
        return self._stream(several_images(images), vocabulary, batch_size)

    def shown(self, image: ImageLike, where: str = "image") -> tuple[Image.Image, tuple[int, int]]:
        """The part of an image that its result describes, and the (height, width) of the whole; both upright.

        Args:
            image: whatever `__call__` takes.
            where: what the message of an error should call it; a path is called by its name.
        Raises:
            InputError: an image that cannot be used.
        """
        where = os.fspath(image) if isinstance(image, str | os.PathLike) else where
        whole = Image.fromarray(rgb_pixels(image, where, self.max_pixels))
        return self.protocol.crop(whole, Image.Resampling.BICUBIC, where), (whole.height, whole.width)

    def _stream(
        self, images: Iterable[ImageLike], vocabulary: Vocabulary, batch_size: int
    ) -> Generator[SegmentationResult, None, None]:
        with closing(read_ahead(enumerate(images), self._numbered_view, batch_size)) as views:
            for batch in in_batches(views, batch_size):
                yield from self._segment(batch, vocabulary)

    def _numbered_view(self, numbered: tuple[int, ImageLike]) -> _View:
        index, image = numbered
        return self._view(image, f"images[{index}]")

    def _view(self, image: ImageLike, where: str) -> _View:
        part, _ = self.shown(image, where)
        name = os.fspath(image) if isinstance(image, str | os.PathLike) else where
        return _View(np.array(part), {**self.protocol.model_input(part), "file_name": name})

    def _segment(self, views: Sequence[_View], vocabulary: Vocabulary) -> list[SegmentationResult]:
        results: dict[int, SegmentationResult] = {}
        for members, outputs in self._in_parts([{**view.model_input, "vocabulary": vocabulary} for view in views]):
            if isinstance(outputs, InputError):
                raise outputs
            for index, output in zip(members, outputs, strict=True):
                results[index] = _result(views[index].pixels, output, vocabulary)
            del outputs, output  # else they take room until the next ones are there
        return [results[index] for index in range(len(views))]


class _View(NamedTuple):
    """What the result describes, [H,W,3] uint8 RGB, and what the model takes."""

    pixels: np.ndarray
    model_input: dict[str, Any]


def _result(pixels: np.ndarray, output: dict[str, Tensor], vocabulary: Vocabulary) -> SegmentationResult:
    label_map, classes = output["label_map"], vocabulary.classes
    masks = output.get("pred_masks", torch.empty(0, *label_map.shape))  # an image in tiles has none
    logits = output.get("pred_logits", torch.empty(0, len(classes)))
    return SegmentationResult(
        image=pixels,
        label_map=label_map.cpu().numpy(),
        classes=classes,
        masks=masks.float().cpu().numpy(),
        mask_logits=logits.float().cpu().numpy(),
    )
