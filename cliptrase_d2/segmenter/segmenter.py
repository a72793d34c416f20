"""Segmentation of images from Python, with any vocabulary."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cliptrase_d2.config import ARGUMENT_KEYS, load_config
from cliptrase_d2.data.images import MAX_PIXELS, check_bound
from cliptrase_d2.data.protocol import Protocol
from cliptrase_d2.data.rasters import Raster
from cliptrase_d2.data.rendering import NO_RENDERING, Picture, RawRange, Rendering, describe_narrow_range
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.segmenter.build import SegmentationModel, build_segmenter, resolve_device
from cliptrase_d2.segmenter.image_input import ImageLike, check_several, read_input
from cliptrase_d2.segmenter.prefetch import batched, prefetch
from cliptrase_d2.segmenter.pretrained import Options, list_options, model_options
from cliptrase_d2.segmenter.result import SegmentationResult, SoftMasks
from cliptrase_d2.unknown import UNKNOWN, check_threshold
from cliptrase_d2.utils.errors import InputError, name_arguments
from cliptrase_d2.utils.oom_retry import OOMRetry
from cliptrase_d2.vocabulary import BackgroundPrompts, ClassNames, Vocabulary

logger = logging.getLogger(__name__)

# Used without a configuration file: the settings of configs/cliptrase/vit_b16_whole.yaml, for images of any size.
_DEFAULTS = (
    *("TEST.PROTOCOL", "whole", "MODEL.CLIPTRASE.ADAPTIVE_DBSCAN", "True"),
    *("INPUT.MIN_SIZE_TEST", "336", "INPUT.MAX_SIZE_TEST", "1344"),
)


class Segmenter:
    """Segments images into classes that are named in the call.

    >>> segmenter = Segmenter.from_config("configs/emoji_scenes.yaml")
    >>> result = segmenter("datasets/emoji_scenes/images/seen_010.webp", ["soccer ball", "red book", "water"])
    >>> result.label_map.shape
    (224, 224)
    >>> max(result.shares(), key=result.shares().get)
    'water'

    Args:
        model: in evaluation mode and on its device.
        protocol: ``center_crop``, ``whole``, ``slide`` or ``tiles``; the last two need a model built with windows.
        short_side: short side of the model's input in pixels; 0 keeps the size of the image (``tiles`` only).
        max_size: largest long side in pixels; ``center_crop`` ignores it.
        max_pixels: largest number of pixels of a file or PIL image; 0 for no limit.
        rendering: how raw values of rasters, and of arrays and tensors of any type, become colours. The attribute may
            be changed.
        square: whether the protocol ``published`` resizes images to a square, see TEST.PUBLISHED.SQUARE.
    Raises:
        InputError: an unknown protocol, or sizes that do not fit the model's patches.
    """

    def __init__(
        self,
        *,
        model: SegmentationModel,
        protocol: str,
        short_side: int,
        max_size: int,
        max_pixels: int = MAX_PIXELS,
        rendering: Rendering = NO_RENDERING,
        square: bool = False,
    ):
        self.model = model
        self._run_model = OOMRetry(model)
        self.max_pixels, self.rendering = check_bound(max_pixels), rendering
        self._has_warned = False
        self.protocol = Protocol(protocol, short_side, max_size, model.patch_multiple, model.resampling, square)

    @classmethod
    def from_config(
        cls,
        path: str | os.PathLike[str] | None = None,
        opts: Options = (),
        *,
        device: str | None = None,
        method: str | None = None,
        protocol: str | None = None,
        method_options: Mapping[str, Any] | None = None,
    ) -> Segmenter:
        """Build the model of a configuration and load its weights. Without CUDA, the CPU is used.

        Args:
            path: YAML file, or the name of a configuration of the package, such as "cliptrase/voc20_224"; None for
                ViT-B/16 with OpenAI's weights and images of any size.
            opts: keys of the configuration and their values: a dict, or KEY, VALUE, KEY, VALUE, … They take precedence.
            device: "cpu", "cuda", "cuda:1", …
            method: such as "sclip".
            protocol: "whole", "slide", "tiles" or "center_crop".
            method_options: options of the method by name, such as ``{"deviation": 3}``: the arguments of its class.
        Raises:
            InputError: an invalid key, value, weights file or device.
        """
        opts = list_options(opts, device, method, protocol, method_options)
        cfg = load_config(path, opts) if path else load_config(options=(*_DEFAULTS, *opts))
        if resolve_device(cfg):
            logger.info("No CUDA device found: running on the CPU.")
        cfg.freeze()
        model = build_segmenter(cfg)
        with name_arguments(ARGUMENT_KEYS):
            return cls(
                model=model,
                protocol=cfg.TEST.PROTOCOL,
                short_side=cfg.INPUT.MIN_SIZE_TEST,
                max_size=cfg.INPUT.MAX_SIZE_TEST,
                max_pixels=cfg.INPUT.MAX_PIXELS,
                rendering=Rendering(cfg.INPUT.BANDS, cfg.INPUT.STRETCH),
                square=cfg.TEST.PUBLISHED.SQUARE,
            )

    @classmethod
    def from_pretrained(
        cls,
        name: str = "ViT-B-16",
        pretrained: str | None = None,
        opts: Options = (),
        *,
        device: str | None = None,
        method: str | None = None,
        protocol: str | None = None,
        method_options: Mapping[str, Any] | None = None,
    ) -> Segmenter:
        """Build CLIPtrase on a pretrained CLIP, for images of any size.

        >>> Segmenter.from_pretrained("emoji")
        Segmenter(CLIPtrase, whole at 112 pixels, cpu)

        Args:
            name: "emoji" for the model in this package, or a ViT of open_clip, such as "ViT-L-14".
            pretrained: tag of open_clip, downloaded once, or a file; None for OpenAI's weights or, if there are none,
                LAION's.
            opts, device, method, protocol, method_options: as in `from_config`.
        Raises:
            InputError: an unknown model, or as `from_config`.
        """
        options = list_options(opts, device, method, protocol, method_options)
        return cls.from_config(opts=[*model_options(name, pretrained, "name"), *options])

    def __repr__(self) -> str:
        side = self.protocol.short_side
        size = f"{side} pixels" if side else "the size of the image"
        return f"Segmenter({type(self.model).__name__}, {self.protocol.name} at {size}, {self.device})"

    @property
    def device(self) -> torch.device:
        """Device of the model. Images may be on any device."""
        return self.model.device

    def __call__(
        self, image: ImageLike, classes: ClassNames, background: BackgroundPrompts = (), *, threshold: float = 0.0
    ) -> SegmentationResult:
        """Segment one image.

        Args:
            image: a path; a PIL image; an array, grey [H,W] or [H,W,1], RGB [H,W,3] or RGBA [H,W,4]; or a tensor with
                the channels first, [1,H,W], [3,H,W] or [4,H,W]. Arrays and tensors are uint8, or float in [0,1]. They
                may have an axis of length 1 before the others. Alpha is dropped and the EXIF orientation applied.
                With a ``rendering``, files, arrays and tensors may have any bands and type. Nodata is unknown, -1.
            classes: class names, in which "a;b" are synonyms of one class; or a dict such as {"a": ["b"]}.
            background: prompts of an extra last class "background", or the name of a ready list; empty for none.
            threshold: pixels whose score of their class is lower become unknown, -1; 0 to 1, 0 for none. See
                `SegmentationResult.with_threshold`.
        Raises:
            InputError: an invalid image, vocabulary or threshold.
        """
        vocabulary = Vocabulary.parse(classes, background, where="classes")
        return self._segment([self._prepare(image, "image")], vocabulary, threshold)[0]

    def batch(
        self,
        images: Iterable[ImageLike],
        classes: ClassNames,
        background: BackgroundPrompts = (),
        *,
        threshold: float = 0.0,
    ) -> list[SegmentationResult]:
        """Segment several images at once. Each result equals that of a single call, up to float rounding.

        Images that have the same size at the model's input are processed together, so memory grows with their number.
        For more than a few dozen images, use `stream`.

        Args:
            images: each as in a single call, of any size.
            classes, background, threshold: as in a single call, for all images.
        Returns:
            The results, in the order of the images.
        Raises:
            InputError: an invalid image, named ``images[3]`` if it has no path, or an invalid vocabulary.
        """
        vocabulary = Vocabulary.parse(classes, background, where="classes")
        check_several(images)
        return self._segment([self._prepare_numbered(pair) for pair in enumerate(images)], vocabulary, threshold)

    def stream(
        self,
        images: Iterable[ImageLike],
        classes: ClassNames,
        background: BackgroundPrompts = (),
        *,
        batch_size: int = 1,
        threshold: float = 0.0,
    ) -> Generator[SegmentationResult, None, None]:
        """Segment any number of images one after the other, and read the next images meanwhile.

        >>> segmenter = Segmenter.from_config("configs/emoji_scenes.yaml")
        >>> files = [f"datasets/emoji_scenes/images/seen_00{index}.webp" for index in range(3)]
        >>> for result in segmenter.stream(files, ["grass", "sand", "water"]):
        ...     print(result.label_map.shape)
        (224, 224)
        (224, 224)
        (224, 224)

        Reading starts with the first ``next()``, in a separate thread, and stays at most twice ``batch_size`` images
        ahead of the results. The thread ends with the iterator; ``close()`` ends it early.

        Args:
            images: each as in a single call; may be an endless generator of frames.
            classes, background, threshold: as in a single call, for all images.
            batch_size: number of images, 1 or more, that are segmented together. Results come batch by batch.
        Yields:
            The results, in the order of the images. An error of an image, or of the iterable, is raised after the
            results of all images before it and ends the iterator.
        Raises:
            InputError: an invalid vocabulary or batch size; while iterating, an invalid image.
        """
        vocabulary = Vocabulary.parse(classes, background, where="classes")
        if batch_size < 1:
            raise InputError("batch_size", batch_size, "Use 1 to segment images one by one.", allowed="1 or more")
        check_several(images)
        return self._stream(images, vocabulary, check_threshold(threshold), batch_size)

    def segment_rows(
        self, raster: Raster, classes: ClassNames, background: BackgroundPrompts = ()
    ) -> Iterator[SegmentedRows]:
        """Segment a raster of any size in tiles, from top to bottom, with a few of its rows in memory.

        The labels are those of a single call. The segmenter needs the protocol ``tiles`` at the original size.

        >>> from cliptrase_d2.data.rasters import open_raster
        >>> segmenter = Segmenter.from_config("cliptrase/vit_b16_tiles")  # doctest: +SKIP
        >>> with open_raster("large.tif", segmenter.rendering) as raster:  # doctest: +SKIP
        ...     for first, pixels, labels in segmenter.segment_rows(raster, ["road", "field"]):
        ...         print(first, len(labels))

        Args:
            raster: open, of any size.
            classes, background: as in a single call.
        Raises:
            InputError: another protocol, an invalid vocabulary, or a raster that cannot be read.
        """
        if self.protocol.name != "tiles" or self.protocol.short_side or not isinstance(self.model, CLIPtrase):
            got, fix = f"{self} for a file that is read in parts", "Set TEST.PROTOCOL tiles and INPUT.MIN_SIZE_TEST 0."
            raise InputError("protocol", got, fix)
        vocabulary, name = Vocabulary.parse(classes, background, where="classes"), str(raster.where)
        self._warn_once(name, raster.raw_range)
        strips: dict[int, Picture] = {}  # by their first row

        def read(rows: slice) -> Tensor:
            strips[rows.start] = raster.read(rows)
            return torch.from_numpy(strips[rows.start].pixels).permute(2, 0, 1)

        inputs = {"vocabulary": vocabulary, "file_name": name}
        for rows, label_map in self.model.segment_rows(read, inputs, raster.size):
            strip, labels = strips.pop(rows.source.start), label_map.cpu().numpy()
            core = slice(rows.core.start - rows.source.start, rows.core.stop - rows.source.start)
            if strip.valid is not None:
                labels[~strip.valid[core]] = UNKNOWN
            yield SegmentedRows(rows.core.start, strip.pixels[core], labels)

    def get_described_part(self, image: ImageLike, where: str = "image") -> tuple[Image.Image, tuple[int, int]]:
        """Return the part of an image that its result describes, and the (height, width) of the full image.

        Both are upright. The part is the full image, except with the protocol ``center_crop``.

        Args:
            image: as in `__call__`.
            where: name of the image in error messages; a path is its own name.
        Raises:
            InputError: an invalid image.
        """
        where = os.fspath(image) if isinstance(image, str | os.PathLike) else where
        full = Image.fromarray(read_input(image, where, self.max_pixels, self.rendering).pixels)
        return self.protocol.crop(full, Image.Resampling.BICUBIC, where), (full.height, full.width)

    def _stream(
        self, images: Iterable[ImageLike], vocabulary: Vocabulary, threshold: float, batch_size: int
    ) -> Generator[SegmentationResult, None, None]:
        with closing(prefetch(enumerate(images), self._prepare_numbered, batch_size)) as views:
            for batch in batched(views, batch_size):
                yield from self._segment(batch, vocabulary, threshold)

    def _prepare_numbered(self, pair: tuple[int, ImageLike]) -> _View:
        index, image = pair
        return self._prepare(image, f"images[{index}]")

    def _prepare(self, image: ImageLike, where: str) -> _View:
        name = os.fspath(image) if isinstance(image, str | os.PathLike) else where
        picture = read_input(image, name, self.max_pixels, self.rendering)
        self._warn_once(name, picture.raw_range)
        pixels, valid = picture.pixels, picture.valid
        part = self.protocol.crop(Image.fromarray(pixels), Image.Resampling.BICUBIC, name)
        if valid is not None:
            mask = Image.fromarray(valid.astype(np.uint8))
            valid = np.asarray(self.protocol.crop(mask, Image.Resampling.NEAREST, name)) > 0
        # Arrays and tensors belong to the caller, who may change them. A large photograph is not copied.
        if self.protocol.crops or not isinstance(image, str | os.PathLike | Image.Image):
            pixels = np.array(part)
        model_input = self.protocol.prepare_input(part, with_photograph=self.model.needs_photograph)
        return _View(pixels, {**model_input, "file_name": name}, valid)

    def _warn_once(self, name: str, raw_range: RawRange | None) -> None:
        warning = describe_narrow_range(raw_range)
        if warning and not self._has_warned:
            self._has_warned = True
            logger.warning("%s: %s", name, warning)

    def _segment(self, views: Sequence[_View], vocabulary: Vocabulary, threshold: float) -> list[SegmentationResult]:
        results: dict[int, SegmentationResult] = {}
        # Masks at the size of a photograph would take more memory than everything else.
        options = {"vocabulary": vocabulary, "output_sem_seg": False, "output_masks": False, "output_grids": True}
        options["threshold"] = threshold
        for members, outputs in self._run_model([{**view.model_input, **options} for view in views]):
            if isinstance(outputs, InputError):
                raise outputs
            for index, output in zip(members, outputs, strict=True):
                results[index] = _make_result(views[index], output, vocabulary.classes)
            del outputs, output  # free their memory before the next forward pass
        return [results[index] for index in range(len(views))]


class SegmentedRows(NamedTuple):
    """Rows of a segmented raster.

    Attributes:
        first: number of the first row.
        pixels: [n,W,3] uint8 RGB.
        labels: [n,W] int64, class indices, or -1 for nodata.
    """

    first: int
    pixels: np.ndarray
    labels: np.ndarray


class _View(NamedTuple):
    """The part of an image that the result describes.

    Attributes:
        pixels: [H,W,3] uint8 RGB.
        model_input: with the image at the model's size.
        valid: [H,W] bool, False for nodata; None if all pixels are valid.
    """

    pixels: np.ndarray
    model_input: dict[str, Any]
    valid: np.ndarray | None


def _make_result(view: _View, output: dict[str, Tensor], classes: tuple[str, ...]) -> SegmentationResult:
    label_map = output["label_map"]
    if view.valid is not None:
        label_map = label_map.masked_fill(~torch.from_numpy(view.valid).to(label_map.device), UNKNOWN)
    size, nothing = (label_map.shape[0], label_map.shape[1]), torch.empty(0, *label_map.shape[:2])
    masks: np.ndarray | SoftMasks = SoftMasks(output.get("coarse_masks", nothing).float().cpu(), size)
    if "pred_masks" in output:  # SAN computes them anyway
        masks = output["pred_masks"].float().cpu().numpy()
    logits = output.get("pred_logits", torch.empty(0, len(classes)))  # the protocol tiles returns neither
    return SegmentationResult(
        image=view.pixels,
        label_map=label_map.cpu().numpy(),
        classes=classes,
        masks=masks,
        mask_logits=logits.float().cpu().numpy(),
        scores=output["scores"].float().cpu().numpy(),
    )
