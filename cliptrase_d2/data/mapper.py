"""Turns a record of a data set into what the model and the evaluator take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image

from cliptrase_d2.data.geometry import resize_and_crop, whole_size
from cliptrase_d2.data.images import read_image, read_label
from cliptrase_d2.data.labels import LabelRule
from cliptrase_d2.data.register import dataset_labels
from cliptrase_d2.errors import InputError
from cliptrase_d2.vocabulary import Vocabulary

PROTOCOLS = ("center_crop", "whole", "slide")


class EvaluationMapper:
    """Reads the image and the labels of a record and brings them to the size that a protocol asks for.

    - ``center_crop``: image (bicubic) and labels (nearest) to a square of ``short_side``.
    - ``whole`` and ``slide``: the image to ``short_side`` (at most ``max_size``), the labels as they are.

    Args:
        protocol: one of ``PROTOCOLS``.
        short_side: pixels; for ``center_crop`` a multiple of ``patch_size``.
        max_size: most pixels of the long side; not used by ``center_crop``.
        patch_size: pixels of the model's patches.
        vocabulary: the classes, handed on to the model.
        label_rule: how raw label values become class indices.
    Raises:
        InputError: an unknown protocol, or sizes that do not fit the patches.
    """

    def __init__(
        self,
        *,
        protocol: str,
        short_side: int,
        max_size: int,
        patch_size: int,
        vocabulary: Vocabulary,
        label_rule: LabelRule,
    ):
        if protocol not in PROTOCOLS:
            raise InputError("TEST.PROTOCOL", repr(protocol), ", ".join(PROTOCOLS), "Choose one of these.")
        if short_side < patch_size or (protocol == "center_crop" and short_side % patch_size):
            raise InputError(
                "INPUT.MIN_SIZE_TEST",
                f"{short_side} with patches of {patch_size} pixels",
                f"a multiple of {patch_size}",
                f"Use {max(1, round(short_side / patch_size)) * patch_size}.",
            )
        if protocol != "center_crop" and max_size < short_side:
            raise InputError("INPUT.MAX_SIZE_TEST", max_size, f"at least the short side, {short_side}", "Raise it.")
        self.protocol = protocol
        self.short_side = short_side
        self.max_size = max_size
        self.patch_size = patch_size
        self.vocabulary = vocabulary
        self.label_rule = label_rule

    @classmethod
    def for_dataset(
        cls, name: str, *, protocol: str, short_side: int, max_size: int, patch_size: int
    ) -> EvaluationMapper:
        """The mapper of a registered data set, ours or one of Detectron2's own."""
        vocabulary, label_rule = dataset_labels(name)
        return cls(
            protocol=protocol,
            short_side=short_side,
            max_size=max_size,
            patch_size=patch_size,
            vocabulary=vocabulary,
            label_rule=label_rule,
        )

    def __call__(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Read one record.

        Args:
            record: ``file_name`` and, with labels, ``sem_seg_file_name``.
        Returns:
            The record with ``image`` [3,H,W] uint8 RGB, ``height`` and ``width`` wanted of the result,
            ``vocabulary`` and, with labels, ``sem_seg`` [height,width] int64, class indices or ignore label.
        Raises:
            InputError: a file that is missing, broken or of another size than its partner, or a label
                outside the classes.
        """
        image = Image.fromarray(read_image(record["file_name"]))
        labels = self._read_labels(record, image) if "sem_seg_file_name" in record else None
        height, width = image.height, image.width
        if self.protocol == "center_crop":
            height = width = self.short_side
            image = resize_and_crop(image, height, Image.Resampling.BICUBIC, record["file_name"])
            if labels is not None:
                labels = resize_and_crop(labels, height, Image.Resampling.NEAREST, record["sem_seg_file_name"])
        else:
            seen = whole_size(height, width, self.short_side, self.max_size, self.patch_size)
            image = image.resize(seen[::-1], Image.Resampling.BICUBIC)
        mapped = {
            **record,
            "image": torch.from_numpy(np.array(image).transpose(2, 0, 1).copy()),
            "height": height,
            "width": width,
            "vocabulary": self.vocabulary,
        }
        if labels is not None:
            mapped["sem_seg"] = torch.from_numpy(np.asarray(labels).astype(np.int64))
        return mapped

    def _read_labels(self, record: Mapping[str, Any], image: Image.Image) -> Image.Image:
        """Class indices of the whole file as an image of mode "I"; checked before any of it is cropped away."""
        file = record["sem_seg_file_name"]
        raw = read_label(file)
        if raw.shape != (image.height, image.width):
            turned = raw.shape == (image.width, image.height)
            raise InputError(
                file,
                f"{raw.shape[1]}x{raw.shape[0]} pixels, its image {record['file_name']} {image.width}x{image.height}",
                "the size of the image" + (" after its EXIF rotation" if turned else ""),
                "Turn the label file the way the image is shown." if turned else "Check that the two belong together.",
            )
        return Image.fromarray(self.label_rule.apply(raw, file).astype(np.int32))
