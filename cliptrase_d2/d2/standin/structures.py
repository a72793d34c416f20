"""Serves `detectron2.structures.ImageList` and `detectron2.layers.ShapeSpec`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class ShapeSpec:
    """What a module's neighbour must know of a tensor's shape."""

    channels: int | None = None
    height: int | None = None
    width: int | None = None
    stride: int | None = None


class ImageList:
    """Images of several sizes in one padded tensor.

    Args:
        tensor: [B,...,H,W], each image in its upper left corner.
        image_sizes: (height, width) of each image without padding.
    """

    def __init__(self, tensor: Tensor, image_sizes: list[tuple[int, int]]):
        self.tensor = tensor
        self.image_sizes = image_sizes

    def __len__(self) -> int:
        return len(self.image_sizes)

    def __getitem__(self, index: int) -> Tensor:
        """The image without its padding, [...,h,w]."""
        height, width = self.image_sizes[index]
        return self.tensor[index, ..., :height, :width]

    def to(self, *args: Any, **kwargs: Any) -> ImageList:
        """The list on another device or in another type, as `Tensor.to`."""
        return ImageList(self.tensor.to(*args, **kwargs), self.image_sizes)

    @property
    def device(self) -> torch.device:
        """The tensor's device."""
        return self.tensor.device

    @staticmethod
    def from_tensors(tensors: Sequence[Tensor], size_divisibility: int = 0, pad_value: float = 0.0) -> ImageList:
        """Pad images [...,h,w] below and to the right to the largest height and width.

        Args:
            size_divisibility: above 1, both are rounded up to a multiple of it.
        """
        if len({image.shape[:-2] for image in tensors}) != 1:
            raise AssertionError(f"images differ in more than size: {[tuple(image.shape) for image in tensors]}")
        sizes = [(image.shape[-2], image.shape[-1]) for image in tensors]
        unit = max(size_divisibility, 1)
        height, width = (-(-max(lengths) // unit) * unit for lengths in zip(*sizes, strict=True))
        padded = tensors[0].new_full((len(tensors), *tensors[0].shape[:-2], height, width), pad_value)
        for target, image, (image_height, image_width) in zip(padded, tensors, sizes, strict=True):
            target[..., :image_height, :image_width] = image
        return ImageList(padded, sizes)
