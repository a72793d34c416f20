"""Serves `ImageList`, `Instances` and `Boxes` of `detectron2.structures`, and `detectron2.layers.ShapeSpec`."""

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


class Boxes:
    """Boxes in pixels.

    Args:
        tensor: [Q,4] left, top, right, bottom.
    """

    def __init__(self, tensor: Tensor):
        self.tensor = tensor.to(torch.float32)

    def __len__(self) -> int:
        return len(self.tensor)

    def __getitem__(self, index: slice | Tensor) -> Boxes:
        return Boxes(self.tensor[index])

    def to(self, device: torch.device | str) -> Boxes:
        """The boxes on another device."""
        return Boxes(self.tensor.to(device))


class Instances:
    """What was found in an image: fields of any names, each with one entry for every instance, as attributes.

    Args:
        image_size: (H, W).
        fields: tensors and the like, all of one length.
    """

    def __init__(self, image_size: tuple[int, int], **fields: Any):
        super().__setattr__("image_size", image_size)
        super().__setattr__("_fields", {})
        for name, value in fields.items():
            self.set(name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        self.set(name, value)

    def __getattr__(self, name: str) -> Any:
        fields = self.__dict__.get("_fields", {})  # a copy in the making has none yet
        if name not in fields:
            raise AttributeError(f"These instances have no field {name!r}, but {', '.join(fields) or 'none'}.")
        return fields[name]

    def set(self, name: str, value: Any) -> None:
        """Add a field, or replace it."""
        if self._fields and len(value) != len(self):
            raise AssertionError(f"The field {name!r} has {len(value)} entries, for {len(self)} instances.")
        self._fields[name] = value

    def has(self, name: str) -> bool:
        """Whether there is a field of this name."""
        return name in self._fields

    def get(self, name: str) -> Any:
        """The field of this name."""
        return self._fields[name]

    def get_fields(self) -> dict[str, Any]:
        """All fields by name; changes of it are changes of the instances."""
        return self._fields

    def __len__(self) -> int:
        for value in self._fields.values():
            return len(value)
        raise NotImplementedError("Instances without a field have no number.")

    def __getitem__(self, index: slice | Tensor) -> Instances:
        """Those that a slice, a mask or indices choose."""
        return Instances(self.image_size, **{name: value[index] for name, value in self._fields.items()})

    def to(self, device: torch.device | str) -> Instances:
        """The instances on another device."""
        moved = {name: value.to(device) if hasattr(value, "to") else value for name, value in self._fields.items()}
        return Instances(self.image_size, **moved)
