"""Conversion of a data set's records to inputs of the model and the evaluator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from cliptrase_d2.d2 import META_ARCH_REGISTRY, CfgNode, configurable
from cliptrase_d2.data.images import MAX_PIXELS, check_bound, read_picture
from cliptrase_d2.data.label_files import read_record_label
from cliptrase_d2.data.labels import LabelRule
from cliptrase_d2.data.protocol import Protocol, build_views
from cliptrase_d2.data.register import get_dataset_labels, get_rendering
from cliptrase_d2.data.rendering import NO_RENDERING, Rendering
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vocabulary import Vocabulary


class EvaluationMapper:
    """Read the image and the labels of a record and resize them for a protocol.

    ``center_crop`` crops the labels like the image. The other protocols do not change them.

    ``EvaluationMapper(cfg, name)`` reads the data set ``name`` as the evaluation of that configuration does. It takes
    the place of Detectron2's ``DatasetMapper`` in ``build_detection_test_loader``.

    Args:
        protocol, short_side, max_size, patch_size, resampling, square: as in ``Protocol``.
        vocabulary: the classes, added to the inputs.
        label_rule: how raw label values become class indices.
        max_pixels: most pixels of an image to decode; 0 for no limit.
        views: sizes of the views of test-time augmentation; empty for none.
        rendering: how raw values become colours.
        with_photograph: whether the model reads the image at its original size as well.
    Raises:
        InputError: the protocol is unknown, or the sizes do not fit the patches.
    """

    @configurable
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
        views: Sequence[Protocol] = (),
        rendering: Rendering = NO_RENDERING,
        with_photograph: bool = False,
        square: bool = False,
    ):
        self.protocol = Protocol(protocol, short_side, max_size, patch_size, resampling, square)
        self.vocabulary = vocabulary
        self.label_rule = label_rule
        self.max_pixels = check_bound(max_pixels)
        self.views = views
        self.rendering = rendering
        self.with_photograph = with_photograph

    @classmethod
    def from_config(
        cls, cfg: CfgNode, name: str, patch_size: int | None = None, resampling: str | None = None
    ) -> dict[str, Any]:
        """Return the arguments of ``__init__`` for a registered data set, Detectron2's own included.

        Args:
            cfg: of the evaluation.
            name: of the data set.
            patch_size, resampling: of the model; None for that of the configured model, which is not built.
        Raises:
            InputError: the data set or the architecture is unknown, or the views do not fit.
        """
        vocabulary, label_rule = get_dataset_labels(name)
        if patch_size is None or resampling is None:
            architecture = _get_architecture(cfg.MODEL.META_ARCHITECTURE)
            patch_size = architecture.get_patch_multiple(cfg) if patch_size is None else patch_size
            resampling = architecture.resampling if resampling is None else resampling
        views: list[Protocol] = []
        if cfg.TEST.AUG.ENABLED:
            sides, limit = cfg.TEST.AUG.MIN_SIZES, cfg.TEST.AUG.MAX_SIZE
            views = build_views(cfg.TEST.PROTOCOL, sides, limit, patch_size, resampling)
        return {
            "protocol": cfg.TEST.PROTOCOL,
            "short_side": cfg.INPUT.MIN_SIZE_TEST,
            "max_size": cfg.INPUT.MAX_SIZE_TEST,
            "patch_size": patch_size,
            "vocabulary": vocabulary,
            "label_rule": label_rule,
            "resampling": resampling,
            "max_pixels": cfg.INPUT.MAX_PIXELS,
            "views": views,
            "with_photograph": _needs_photograph(cfg.MODEL.META_ARCHITECTURE, cfg),
            "rendering": get_rendering(name).over(Rendering(cfg.INPUT.BANDS, cfg.INPUT.STRETCH)),
            "square": cfg.TEST.PUBLISHED.SQUARE,
        }

    @classmethod
    def for_dataset(cls, name: str, **options: Any) -> EvaluationMapper:
        """Build the mapper of a registered data set, Detectron2's own included.

        Args:
            name: of the data set.
            options: the arguments of the class except ``vocabulary`` and ``label_rule``.
        """
        vocabulary, label_rule = get_dataset_labels(name)
        return cls(vocabulary=vocabulary, label_rule=label_rule, **{"rendering": get_rendering(name), **options})

    def __call__(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Read one record.

        Args:
            record: ``file_name`` and, with labels, ``sem_seg_file_name``.
        Returns:
            The record with ``image`` [3,H,W] uint8 RGB, ``height`` and ``width`` of the result, ``vocabulary`` and,
            with labels, ``sem_seg`` [height,width] int64, class indices or the ignore label; with views also ``views``,
            a list of the original image at each of their sizes, like ``image``; ``photograph`` [3,height,width] uint8
            RGB where the model reads it; for a 16-bit image without a stretch
            also ``raw_range``, a ``RawRange``. Nodata has the ignore label.
        Raises:
            InputError: a file does not exist, is broken or too large, image and labels differ in size, or a label value
                has no meaning.
        """
        picture = read_picture(record["file_name"], self.max_pixels, rendering=self.rendering)
        image = Image.fromarray(picture.pixels)
        raw = read_record_label(record, image.size, self.label_rule) if "sem_seg_file_name" in record else None
        image = self.protocol.crop(image, Image.Resampling.BICUBIC, record["file_name"])
        inputs = self.protocol.prepare_input(image, with_photograph=self.with_photograph)
        mapped = {**record, **inputs, "vocabulary": self.vocabulary}
        if self.views:
            mapped["views"] = [view.prepare_input(image)["image"] for view in self.views]
        if picture.raw_range is not None:
            mapped["raw_range"] = picture.raw_range
        if raw is not None:
            mapped["sem_seg"] = torch.from_numpy(self._map_labels(raw, record["sem_seg_file_name"], picture.valid))
        return mapped

    def _map_labels(self, raw: np.ndarray, file: str, valid: np.ndarray | None) -> np.ndarray:
        """Return class indices [height,width]. All of ``raw`` is checked, including the cropped margins."""
        labels = self.label_rule.apply(raw, file)
        if valid is not None:
            labels = np.where(valid, labels, self.label_rule.ignore_label)
        labels = self._crop(labels, file)
        unscored = self.label_rule.unscored_if_only
        if unscored is not None and self._crop(raw == unscored, file).all():
            labels[:] = self.label_rule.ignore_label
        return labels

    def _crop(self, labels: np.ndarray, file: str) -> np.ndarray:
        image = Image.fromarray(labels.astype(np.int32))  # mode "I" holds every label value
        return np.asarray(self.protocol.crop(image, Image.Resampling.NEAREST, file)).astype(np.int64)


def _needs_photograph(name: str, cfg: CfgNode) -> bool:
    """Return whether the configured model, of a registered class of this package, reads photographs."""
    find = getattr(META_ARCH_REGISTRY.get(name), "get_needs_photograph", None) if name in META_ARCH_REGISTRY else None
    return find is not None and find(cfg)


def _get_architecture(name: str) -> Any:
    """Return the class of a registered model, which knows its patch size.

    Raises:
        InputError: it is not registered, or belongs to another package.
    """
    if name not in META_ARCH_REGISTRY:
        fix = "Import its module, which is cliptrase_d2.segmenter.build for the models of this package."
        raise InputError("MODEL.META_ARCHITECTURE", f"no registered model has the name {name!r}", fix)
    architecture = META_ARCH_REGISTRY.get(name)
    if not hasattr(architecture, "get_patch_multiple"):
        got = f"{name!r} is a model of {architecture.__module__}, whose patch size is unknown"
        fix = "Give patch_size and resampling, or set CLIPtraseSAN for the SAN of this package."
        raise InputError("MODEL.META_ARCHITECTURE", got, fix)
    return architecture
