"""What a segmented image is handed back as."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from PIL import Image

from cliptrase_d2.errors import InputError
from cliptrase_d2.visualization.overlay import overlay, palette
from cliptrase_d2.visualization.picture import class_shares, labelled_picture

_SHOWN = 5  # classes in the short form
_SUFFIXES = ".png, .jpg, .webp or another suffix that Pillow writes"


@dataclass(frozen=True, eq=False, repr=False)
class SegmentationResult:
    """One image, segmented.

    Attributes:
        image: [H,W,3] uint8 RGB, what the label map describes: upright, and with the protocol
            ``center_crop`` the crop.
        label_map: [H,W] int64, index into ``classes``.
        classes: C names.
        masks: [Q,H,W] float32, the mask proposals.
        mask_logits: [Q,C] float32, their scores for every class.
    """

    image: np.ndarray
    label_map: np.ndarray
    classes: tuple[str, ...]
    masks: np.ndarray
    mask_logits: np.ndarray

    def __repr__(self) -> str:
        height, width = self.label_map.shape
        shares = self.shares()
        found = ", ".join(f"{name} {shares[name]:.1%}" for name in list(shares)[:_SHOWN])
        found += f" and {len(shares) - _SHOWN} more" if len(shares) > _SHOWN else ""
        return f"SegmentationResult({width}x{height} pixels, {len(self.masks)} masks: {found})"

    def shares(self) -> dict[str, float]:
        """Share of the pixels, 0 to 1, of every class that occurs, the largest first."""
        return {self.classes[index]: share for index, share in class_shares(self.label_map, len(self.classes))}

    def overlay(self, legend: bool = True) -> np.ndarray:
        """The image under the colours of its classes.

        Args:
            legend: add their names and shares on the right.
        Returns:
            [H,W',3] uint8 RGB; W' is W without a legend.
        """
        if legend:
            return labelled_picture(self.image, self.label_map, self.classes)
        return overlay(self.image, self.label_map, palette(len(self.classes)))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the overlay with its legend; the suffix decides the format.

        Raises:
            InputError: a suffix that Pillow does not write, or a place that cannot be written.
        """
        write_picture(self.overlay(), path)

    def save_labels(self, path: str | os.PathLike[str]) -> None:
        """Write the label map as PNG of class indices, 16-bit above 255 classes.

        Raises:
            InputError: a suffix other than .png, or a place that cannot be written.
        """
        if not os.fspath(path).lower().endswith(".png"):
            raise InputError(path, "a file for class indices", "the suffix .png, which keeps them exactly", "Use .png.")
        depth = np.uint8 if len(self.classes) <= 255 else np.uint16
        write_picture(self.label_map.astype(depth), path, ".png")


def write_picture(pixels: np.ndarray, path: str | os.PathLike[str], suffixes: str = _SUFFIXES) -> None:
    """Write pixels, [H,W] or [H,W,3], in the format that the suffix names.

    Args:
        pixels: uint8, or grey uint16.
        path: of the file.
        suffixes: those that are allowed, for the message.
    Raises:
        InputError: a suffix that Pillow does not write, or a place that cannot be written.
    """
    try:
        Image.fromarray(pixels).save(path)
    # In turn: an unknown suffix, a format that is only read, a place that cannot be written.
    except (ValueError, KeyError, OSError) as error:
        raise InputError(
            path,
            f"a picture that could not be written ({type(error).__name__}: {error})",
            f"a file in an existing folder, with the suffix {suffixes}",
            "Check the folder and the suffix.",
        ) from error
