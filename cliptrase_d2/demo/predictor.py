"""Segmenting images from Python, any vocabulary, one call."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cliptrase_d2.config import load_config
from cliptrase_d2.data.images import read_image, upright_rgb
from cliptrase_d2.data.protocol import Protocol
from cliptrase_d2.demo.result import SegmentationResult
from cliptrase_d2.engine.build import build_segmenter
from cliptrase_d2.engine.device import resolve_device
from cliptrase_d2.errors import InputError
from cliptrase_d2.meta_arch import Segmenting
from cliptrase_d2.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

# For images of any size, where the user names no file: what configs/cliptrase/vit_b16_whole.yaml says.
_DEFAULTS = (
    *("TEST.PROTOCOL", "whole"),
    *("INPUT.MIN_SIZE_TEST", "336"),
    *("INPUT.MAX_SIZE_TEST", "1344"),
    *("MODEL.CLIPTRASE.RESOLUTION_FREE", "True"),
)
_ALLOWED_IMAGES = "a path, a PIL image, or a uint8 array [H,W] or [H,W,3|4] of grey, RGB or RGBA"


class Segmenter:
    """Segments one image at a time into classes that are named with it.

    Args:
        model: in evaluation mode, where it is to run.
        protocol: ``center_crop``, ``whole`` or ``slide``; the last needs a model built with windows.
        short_side: pixels at which the model sees the short side of an image.
        max_size: most pixels of the long side; not used by ``center_crop``.
    Raises:
        InputError: an unknown protocol, or sizes that do not fit the model's patches.
    """

    def __init__(self, *, model: Segmenting, protocol: str, short_side: int, max_size: int):
        self.model = model
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
        )

    def __call__(
        self,
        image: str | os.PathLike[str] | Image.Image | np.ndarray,
        classes: Sequence[str],
        background: Sequence[str] = (),
    ) -> SegmentationResult:
        """Segment one image.

        Args:
            image: a path, a PIL image, or uint8 grey [H,W], RGB [H,W,3] or RGBA [H,W,4]. Alpha is dropped;
                an EXIF orientation is applied.
            classes: names to look for, "a;b" are synonyms of one class.
            background: prompts of a last class "background"; none for no such class.
        Raises:
            InputError: an image or a vocabulary that cannot be used.
        """
        vocabulary = Vocabulary.parse(classes, background, where="classes")
        part, _ = self.shown(image)
        output = self.model([{**self.protocol.model_input(part), "vocabulary": vocabulary}])[0]
        return SegmentationResult(
            image=np.array(part),
            label_map=output["label_map"].cpu().numpy(),
            classes=vocabulary.classes,
            masks=output["pred_masks"].float().cpu().numpy(),
            mask_logits=output["pred_logits"].float().cpu().numpy(),
        )

    def shown(self, image: str | os.PathLike[str] | Image.Image | np.ndarray) -> tuple[Image.Image, tuple[int, int]]:
        """The part of an image that its result describes, and the (height, width) of the whole; both upright.

        Args:
            image: whatever `__call__` takes.
        Raises:
            InputError: an image that cannot be used.
        """
        whole = Image.fromarray(_rgb(image))
        where = image if isinstance(image, str | os.PathLike) else "image"
        return self.protocol.crop(whole, Image.Resampling.BICUBIC, where), (whole.height, whole.width)


def _rgb(image: object) -> np.ndarray:
    """[H,W,3] uint8 of whatever a user calls an image."""
    if isinstance(image, str | os.PathLike):
        return read_image(Path(image))
    if isinstance(image, Image.Image):
        return upright_rgb(image, "image")
    if not isinstance(image, np.ndarray):
        fix = "Give tensor.permute(1, 2, 0).numpy()." if hasattr(image, "permute") else "Convert it."
        raise InputError("image", f"a {type(image).__name__}", _ALLOWED_IMAGES, fix)
    if image.dtype != np.uint8:
        fix = "Scale it to 0..255 and convert it: (array * 255).round().astype('uint8') for values of 0..1."
        raise InputError("image", f"an array of {image.dtype}{_range(image)}", _ALLOWED_IMAGES, fix)
    if image.size == 0 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (3, 4)):
        fix = "Bring the channels last, and give one image at a time."
        raise InputError("image", f"an array of shape {list(image.shape)}", _ALLOWED_IMAGES, fix)
    return image[..., :3] if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)


def _range(array: np.ndarray) -> str:
    """Smallest and largest value, where there are such."""
    number = array.size and array.dtype.kind in "iuf"
    return f" from {array.min():g} to {array.max():g}" if number else ""
