"""How an image is shown to the model, and which part of it the result describes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from cliptrase_d2.data.geometry import center_crop_geometry, cropped_place, cropped_range, resize_and_crop, whole_size
from cliptrase_d2.utils.errors import InputError

PROTOCOLS = ("center_crop", "whole", "slide", "tiles")


@dataclass(frozen=True)
class Protocol:
    """A way of showing images to a model.

    - ``center_crop``: the square of ``short_side`` in the middle, for the model and for the result.
    - ``whole``, ``slide`` and ``tiles``: the model sees the image at ``short_side``, the result has its original size.

    Attributes:
        name: one of ``PROTOCOLS``.
        short_side: pixels; for ``center_crop`` a multiple of ``patch_size``; 0, for ``tiles`` only: whatever it has.
        max_size: most pixels of the long side; not used by ``center_crop`` and where ``short_side`` is 0.
        patch_size: pixels of the model's patches.
        resampling: of the resized image, a name in lower case of Pillow's.
    Raises:
        InputError: an unknown name, or sizes that do not fit the patches.
    """

    name: str
    short_side: int
    max_size: int
    patch_size: int
    resampling: str = "bicubic"

    def __post_init__(self) -> None:
        if self.name not in PROTOCOLS:
            raise InputError("TEST.PROTOCOL", repr(self.name), "Choose one of these.", allowed=", ".join(PROTOCOLS))
        if self.name == "tiles" and self.short_side == 0:
            return
        if self.short_side < self.patch_size or (self.crops and self.short_side % self.patch_size):
            raise InputError(
                "INPUT.MIN_SIZE_TEST",
                f"{self.short_side} with patches of {self.patch_size} pixels",
                f"Use {max(1, round(self.short_side / self.patch_size)) * self.patch_size}.",
                allowed=f"a multiple of {self.patch_size}",
            )
        if not self.crops and self.max_size < self.short_side:
            allowed = f"at least the short side, {self.short_side}"
            raise InputError("INPUT.MAX_SIZE_TEST", self.max_size, "Raise it.", allowed=allowed)

    @property
    def crops(self) -> bool:
        """Whether the result describes only a part of the image."""
        return self.name == "center_crop"

    def crop(self, image: Image.Image, resample: Image.Resampling, where: object) -> Image.Image:
        """The part that the result describes, at the size of the result.

        Args:
            image: photograph, or labels of mode "I".
            resample: bicubic for photographs, nearest for labels.
            where: the file, for the message.
        Raises:
            InputError: an image so thin that its long side explodes.
        """
        return resize_and_crop(image, self.short_side, resample, where) if self.crops else image

    def place(self, point: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
        """Where a pixel of an image lies in the part that ``crop`` returns of it.

        Args:
            point: (x, y) in pixels of the image, from its top left corner.
            size: (height, width) of the image.
        Returns:
            (x, y) in pixels of the part.
        Raises:
            InputError: a point outside of the image, or of the part.
        """
        (x, y), (height, width) = point, size
        resized, start, part = size, (0, 0), size
        if self.crops:
            resized, start = center_crop_geometry(height, width, self.short_side)
            part = (self.short_side, self.short_side)
        seen_y, seen_x = map(cropped_range, size, resized, start, part)
        if x not in seen_x or y not in seen_y:
            got = f"{x},{y} in an image of {width}x{height} pixels"
            allowed = f"x of {seen_x[0]} to {seen_x[-1]} and y of {seen_y[0]} to {seen_y[-1]}"
            allowed += ", the square in its middle that the model sees" if self.crops else ""
            raise InputError(
                "point", got, "Choose another" + (", or the protocol whole." if self.crops else "."), allowed=allowed
            )
        return cropped_place(x, width, resized[1], start[1]), cropped_place(y, height, resized[0], start[0])

    def model_input(self, image: Image.Image) -> dict[str, Any]:
        """What the model takes.

        Args:
            image: RGB, as ``crop`` returned it.
        Returns:
            ``image`` [3,H,W] uint8 RGB; ``height`` and ``width`` wanted of the result.
        """
        height, width = image.height, image.width
        if not self.crops and self.short_side:
            seen = whole_size(height, width, self.short_side, self.max_size, self.patch_size)
            image = image.resize(seen[::-1], Image.Resampling[self.resampling.upper()])
        pixels = torch.from_numpy(np.array(image).transpose(2, 0, 1).copy())
        return {"image": pixels, "height": height, "width": width}
