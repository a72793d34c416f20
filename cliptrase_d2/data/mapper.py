"""Turns a record of a data set into what the model and the evaluator take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image

from cliptrase_d2.data.image_files import MAX_PIXELS, check_bound
from cliptrase_d2.data.images import read_image, read_label_of
from cliptrase_d2.data.labels import LabelRule
from cliptrase_d2.data.protocol import Protocol
from cliptrase_d2.data.register import dataset_labels
from cliptrase_d2.vocabulary import Vocabulary


class EvaluationMapper:
    """Reads the image and the labels of a record and brings them to the size that a protocol asks for.

    ``center_crop`` crops the labels like the image; the others leave them as they are.

    Args:
        protocol, short_side, max_size, patch_size, resampling: as in ``Protocol``.
        vocabulary: the classes, handed on to the model.
        label_rule: how raw label values become class indices.
        max_pixels: most of an image that is decoded; 0 for no bound.
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
        resampling: str = "bicubic",
        max_pixels: int = MAX_PIXELS,
    ):
        self.protocol = Protocol(protocol, short_side, max_size, patch_size, resampling)
        self.vocabulary = vocabulary
        self.label_rule = label_rule
        self.max_pixels = check_bound(max_pixels)

    @classmethod
    def for_dataset(
        cls,
        name: str,
        *,
        protocol: str,
        short_side: int,
        max_size: int,
        patch_size: int,
        resampling: str = "bicubic",
        max_pixels: int = MAX_PIXELS,
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
            resampling=resampling,
            max_pixels=max_pixels,
        )

    def __call__(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Read one record.

        Args:
            record: ``file_name`` and, with labels, ``sem_seg_file_name``.
        Returns:
            The record with ``image`` [3,H,W] uint8 RGB, ``height`` and ``width`` wanted of the result,
            ``vocabulary`` and, with labels, ``sem_seg`` [height,width] int64, class indices or ignore label.
        Raises:
            InputError: a file that is missing, broken, too large or of another size than its partner, or a label
                outside the classes.
        """
        image = Image.fromarray(read_image(record["file_name"], self.max_pixels))
        raw = read_label_of(record, image.size) if "sem_seg_file_name" in record else None
        image = self.protocol.crop(image, Image.Resampling.BICUBIC, record["file_name"])
        mapped = {**record, **self.protocol.model_input(image), "vocabulary": self.vocabulary}
        if raw is not None:
            mapped["sem_seg"] = torch.from_numpy(self._seen_labels(raw, record["sem_seg_file_name"]))
        return mapped

    def _seen_labels(self, raw: np.ndarray, file: str) -> np.ndarray:
        """Class indices [height,width] of what the protocol leaves; checked before any of it is cropped away."""
        seen = self._crop(self.label_rule.apply(raw, file), file)
        unscored = self.label_rule.unscored_if_only
        if unscored is not None and (self._crop(raw, file) == unscored).all():
            seen[:] = self.label_rule.ignore_label
        return seen

    def _crop(self, labels: np.ndarray, file: str) -> np.ndarray:
        image = Image.fromarray(labels.astype(np.int32))  # mode "I", which holds every label
        return np.asarray(self.protocol.crop(image, Image.Resampling.NEAREST, file)).astype(np.int64)
