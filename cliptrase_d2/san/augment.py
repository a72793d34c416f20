"""What training changes about an image and its labels: size, place, side and colours.

The same as the published SAN's through Detectron2: ResizeShortestEdge, RandomCrop, ColorAugSSDTransform, RandomFlip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from cliptrase_d2.utils.errors import InputError

SAMPLINGS = ("choice", "range")
_GREY = 128  # of what is padded
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = 32, (0.5, 1.5), (0.5, 1.5), 18  # Liu et al., SSD (arXiv 1512.02325)


@dataclass(frozen=True)
class Augmentation:
    """A random view of an image.

    Attributes:
        short_sides: pixels, drawn from; or with ``sampling`` "range" the two ends of what is drawn from.
        sampling: "choice" or "range".
        max_size: most pixels of the long side.
        crop: height and width of the window that is cut out, smaller images being padded; None for all of it.
        colours: whether brightness, contrast, saturation and hue change.
        flip: whether half of the views are mirrored.
    Raises:
        InputError: sizes that cannot be, or an unknown sampling.
    """

    short_sides: tuple[int, ...]
    sampling: str
    max_size: int
    crop: tuple[int, int] | None
    colours: bool
    flip: bool

    def __post_init__(self) -> None:
        if self.sampling not in SAMPLINGS:
            key = "INPUT.MIN_SIZE_TRAIN_SAMPLING"
            raise InputError(key, repr(self.sampling), "Choose one of these.", allowed=" or ".join(SAMPLINGS))
        needs_two = self.sampling == "range" and len(self.short_sides) != 2
        if needs_two or not self.short_sides or min(self.short_sides) < 1:
            allowed = "two sizes above 0" if needs_two else "sizes above 0"
            raise InputError("INPUT.MIN_SIZE_TRAIN", self.short_sides, "Change it.", allowed=allowed)
        if self.crop is not None and min(self.crop) < 1:
            raise InputError("INPUT.CROP.SIZE", self.crop, "Change it.", allowed="height and width above 0")

    def __call__(
        self, image: np.ndarray, labels: np.ndarray, rng: np.random.Generator, ignore_label: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """A view.

        Args:
            image: [H,W,3] uint8 RGB.
            labels: [H,W] integers.
            rng: decides everything.
            ignore_label: of pixels that are padded.
        Returns:
            The same of another size, that of ``crop`` if there is one.
        """
        height, width = self._size(image.shape[0], image.shape[1], rng)
        picture = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
        image = np.asarray(picture)
        # Mode "I" holds every label.
        labels = np.asarray(Image.fromarray(labels.astype(np.int32)).resize((width, height), Image.Resampling.NEAREST))
        if self.crop is not None:
            image, labels = _cut(image, labels, self.crop, rng)
        if self.colours:
            image = change_colours(image, rng)
        if self.flip and rng.random() < 0.5:
            image, labels = image[:, ::-1], labels[:, ::-1]
        if self.crop is not None:
            rest = [(0, self.crop[axis] - labels.shape[axis]) for axis in (0, 1)]
            image = np.pad(image, [*rest, (0, 0)], constant_values=_GREY)
            labels = np.pad(labels, rest, constant_values=ignore_label)
        return np.ascontiguousarray(image), np.ascontiguousarray(labels)

    def _size(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int]:
        if self.sampling == "range":
            short = int(rng.integers(self.short_sides[0], self.short_sides[1] + 1))
        else:
            short = int(rng.choice(self.short_sides))
        scale = min(short / min(height, width), self.max_size / max(height, width))
        return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def change_colours(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast, saturation and hue, each with a chance of one half; contrast early or late.

    Args:
        image: [H,W,3] uint8 RGB.
        rng: decides.
    """
    if rng.random() < 0.5:
        image = _scaled(image, 1.0, rng.uniform(-_BRIGHTNESS, _BRIGHTNESS))
    contrast_first = rng.random() < 0.5
    if contrast_first:
        image = _contrast(image, rng)
    if rng.random() < 0.5:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hsv[..., 1] = _scaled(hsv[..., 1], rng.uniform(*_SATURATION), 0.0)
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if rng.random() < 0.5:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        turn = int(rng.integers(-_HUE, _HUE))
        hsv[..., 0] = (hsv[..., 0].astype(np.int16) + turn) % 180  # OpenCV has half degrees
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return image if contrast_first else _contrast(image, rng)


def _contrast(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _scaled(image, rng.uniform(*_CONTRAST), 0.0) if rng.random() < 0.5 else image


def _scaled(values: np.ndarray, factor: float, offset: float) -> np.ndarray:
    return np.clip(values.astype(np.float32) * factor + offset, 0, 255).astype(np.uint8)


def _cut(
    image: np.ndarray, labels: np.ndarray, size: Sequence[int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A random window of at most a size, [h,w,3] and [h,w]."""
    window = []
    for length, wanted in zip(labels.shape, size, strict=True):
        start = int(rng.integers(0, max(0, length - wanted) + 1))
        window.append(slice(start, start + min(length, wanted)))
    return image[tuple(window)], labels[tuple(window)]
