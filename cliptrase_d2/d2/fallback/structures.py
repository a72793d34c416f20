"""Padded images, boxes and instances, as in `detectron2.structures`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class ImageList:
    """Images of several sizes in one padded tensor.

    Args:
        tensor: [B,...,H,W], each image in its upper left corner.
        image_sizes: (height, width) of each image without padding.
    """

    def __init__(self, tensor: Tensor, image_sizes: list[tuple[int, int]]):
        self.tensor = tensor
        self.image_sizes = image_sizes

    @staticmethod
    def from_tensors(tensors: Sequence[Tensor], size_divisibility: int = 0, pad_value: float = 0.0) -> ImageList:
        """Pad images [...,h,w] at the bottom and on the right to the largest height and width.

        Args:
            size_divisibility: above 1, height and width are rounded up to multiples of it.
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
        """Return the boxes on another device."""
        return Boxes(self.tensor.to(device))


class Instances:
    """Instances of an image: fields of any names as attributes, each with one entry per instance.

    Args:
        image_size: (H, W).
        fields: tensors or the like, all of one length.
    """

    def __init__(self, image_size: tuple[int, int], **fields: Any):
        super().__setattr__("image_size", image_size)
        super().__setattr__("_fields", {})
        for name, value in fields.items():
            self.set(name, value)

    def __getattr__(self, name: str) -> Any:
        fields = self.__dict__.get("_fields", {})  # not set yet while being copied
        if name not in fields:
            raise AttributeError(f"These instances have no field {name!r}, only: {', '.join(fields) or 'none'}.")
        return fields[name]

    def set(self, name: str, value: Any) -> None:
        """Add a field, or replace it."""
        if self._fields and len(value) != len(self):
            raise AssertionError(f"The field {name!r} has {len(value)} entries, for {len(self)} instances.")
        self._fields[name] = value

    __setattr__ = set

    def has(self, name: str) -> bool:
        """Return whether a field of this name exists."""
        return name in self._fields

    def get_fields(self) -> dict[str, Any]:
        """Return all fields by name; changing the dictionary changes the instances."""
        return self._fields

    def __len__(self) -> int:
        for value in self._fields.values():
            return len(value)
        raise NotImplementedError("The number of instances without fields is undefined.")

    def __getitem__(self, index: slice | Tensor) -> Instances:
        """Select instances by a slice, a mask or indices."""
        return Instances(self.image_size, **{name: value[index] for name, value in self._fields.items()})

    def to(self, device: torch.device | str) -> Instances:
        """Return the instances on another device."""
        moved = {name: value.to(device) if hasattr(value, "to") else value for name, value in self._fields.items()}
        return Instances(self.image_size, **moved)
