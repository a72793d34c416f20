"""Endless stream of augmented training images.

The image and the view at each position of the stream depend only on the seed and the position. A resumed training
therefore reads the same images, with any number of workers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from cliptrase_d2.d2 import comm
from cliptrase_d2.data.images import MAX_PIXELS, check_bound, read_picture
from cliptrase_d2.data.label_files import read_record_label
from cliptrase_d2.data.labels import LabelRule
from cliptrase_d2.data.loader import BadRecord, PackedRecords
from cliptrase_d2.data.rendering import NO_RENDERING, Rendering
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vocabulary import Vocabulary

_ORDER, _VIEW = 0, 1  # separate random streams from one seed
_GREY = 128  # padding of images
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = 32, (0.5, 1.5), (0.5, 1.5), 18  # Liu et al., SSD (arXiv 1512.02325)


@dataclass(frozen=True)
class Augmentation:
    """Random resize, crop, colour change and flip, as in the published SAN.

    These are Detectron2's ResizeShortestEdge, RandomCrop, ColorAugSSDTransform and RandomFlip.

    Attributes:
        short_sides: sizes in pixels to choose from, or the two ends of a range if ``sampling`` is "range".
        sampling: "choice" or "range".
        max_size: upper bound of the long side, in pixels.
        crop: height and width of a random window, to which smaller images are padded; None for no crop.
        colours: whether to change brightness, contrast, saturation and hue.
        flip: whether to mirror half of the views.
    """

    short_sides: tuple[int, ...]
    sampling: str
    max_size: int
    crop: tuple[int, int] | None
    colours: bool
    flip: bool

    def __call__(
        self, image: np.ndarray, labels: np.ndarray, rng: np.random.Generator, ignore_label: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return a random view.

        Args:
            image: [H,W,3] uint8 RGB.
            labels: [H,W] integers.
            rng: the only source of randomness.
            ignore_label: label of padded pixels.
        Returns:
            Image [h,w,3] and labels [h,w], of size ``crop`` if that is set.
        """
        width, height = size = self._choose_size(image.shape[0], image.shape[1], rng)
        image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
        # Pillow's mode "I" (int32) can hold any label.
        labels = np.asarray(Image.fromarray(labels.astype(np.int32)).resize(size, Image.Resampling.NEAREST))
        if self.crop is not None:
            window = []
            for length, limit in zip((height, width), self.crop, strict=True):
                start = int(rng.integers(0, max(0, length - limit) + 1))
                window.append(slice(start, start + limit))
            image, labels = image[tuple(window)], labels[tuple(window)]
        if self.colours:
            image = change_colours(image, rng)
        if self.flip and rng.random() < 0.5:
            image, labels = image[:, ::-1], labels[:, ::-1]
        if self.crop is not None:
            padding = [(0, self.crop[axis] - labels.shape[axis]) for axis in (0, 1)]
            image = np.pad(image, [*padding, (0, 0)], constant_values=_GREY)
            labels = np.pad(labels, padding, constant_values=ignore_label)
        return np.ascontiguousarray(image), np.ascontiguousarray(labels)

    def _choose_size(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int]:
        """Return the width and height after resizing."""
        if self.sampling == "range":
            short = int(rng.integers(self.short_sides[0], self.short_sides[1] + 1))
        else:
            short = int(rng.choice(self.short_sides))
        scale = min(short / min(height, width), self.max_size / max(height, width))
        return max(1, int(width * scale + 0.5)), max(1, int(height * scale + 0.5))


def change_colours(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change brightness, contrast, saturation and hue, each with probability 0.5; contrast comes second or last.

    Args:
        image: [H,W,3] uint8 RGB.
        rng: the only source of randomness.
    """
    if rng.random() < 0.5:
        image = _scale(image, 1.0, rng.uniform(-_BRIGHTNESS, _BRIGHTNESS))
    contrast_first = rng.random() < 0.5
    if contrast_first:
        image = _change_contrast(image, rng)
    if rng.random() < 0.5:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hsv[..., 1] = _scale(hsv[..., 1], rng.uniform(*_SATURATION))
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if rng.random() < 0.5:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        shift = int(rng.integers(-_HUE, _HUE))
        hsv[..., 0] = (hsv[..., 0].astype(np.int16) + shift) % 180  # OpenCV stores hue in units of two degrees
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return image if contrast_first else _change_contrast(image, rng)


def _change_contrast(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _scale(image, rng.uniform(*_CONTRAST)) if rng.random() < 0.5 else image


def _scale(values: np.ndarray, factor: float, offset: float = 0.0) -> np.ndarray:
    return np.clip(values.astype(np.float32) * factor + offset, 0, 255).astype(np.uint8)


class TrainingDataset(Dataset):
    """Labelled images, read with a random view.

    Args:
        records: with ``file_name`` and ``sem_seg_file_name``.
        augmentation: of image and labels.
        vocabulary: classes, passed on to the model.
        label_rule: conversion of raw label values to class indices.
        max_pixels: largest image that is decoded; 0 for no limit.
        rendering: how raw values become colours.
    """

    def __init__(
        self,
        records: Sequence[Mapping[str, Any]],
        augmentation: Augmentation,
        vocabulary: Vocabulary,
        label_rule: LabelRule,
        max_pixels: int = MAX_PIXELS,
        rendering: Rendering = NO_RENDERING,
    ):
        self.records, self.max_pixels = PackedRecords(records), check_bound(max_pixels)
        self.rendering = rendering
        self.augmentation, self.vocabulary, self.label_rule = augmentation, vocabulary, label_rule

    def __getitem__(self, item: tuple[int, Sequence[int]]) -> dict[str, Any] | BadRecord:
        """Read (index of the record, seed of the view)."""
        index, seed = item
        record = self.records[index]
        try:
            return self.read_view(record, np.random.default_rng(seed))
        except InputError as error:  # returned as a value because torch rebuilds a worker's exception from its text
            return BadRecord(record["file_name"], error)

    def read_view(self, record: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Read a record and return a random view of it.

        Returns:
            The record with ``image`` [3,H,W] uint8 RGB, ``sem_seg`` [H,W] int64, ``vocabulary``, and ``num_masks``,
            the number of classes in the view.
        Raises:
            InputError: an unusable file, or a label outside the classes.
        """
        picture = read_picture(record["file_name"], self.max_pixels, rendering=self.rendering)
        image = picture.pixels
        raw = read_record_label(record, (image.shape[1], image.shape[0]), self.label_rule)
        labels = self.label_rule.apply(raw, record["sem_seg_file_name"])
        if picture.valid is not None:
            labels = np.where(picture.valid, labels, self.label_rule.ignore_label)
        image, labels = self.augmentation(image, labels, rng, self.label_rule.ignore_label)
        present = np.unique(labels)
        return {
            **record,
            "image": torch.from_numpy(image).permute(2, 0, 1).contiguous(),
            "sem_seg": torch.from_numpy(labels.astype(np.int64)),
            "vocabulary": self.vocabulary,
            "num_masks": int(np.count_nonzero((present >= 0) & (present < self.label_rule.num_classes))),
        }


def sample_records(
    records: int, *, seed: int, start: int, batch: int, rank: int = 0, processes: int = 1
) -> Iterator[tuple[int, tuple[int, int, int]]]:
    """Yield (index of a record, seed of its view) endlessly; each epoch is a random order of all records.

    Args:
        records: their number.
        seed: of the orders and views.
        start: position of the first image in the stream, the same in every process.
        batch: images per step over all processes.
        rank, processes: this process and their number; each gets an equal share of every step.
    """
    share, epoch, order = batch // processes, -1, np.empty(0, dtype=np.int64)
    for first in itertools.count(start + rank * share, batch):
        for position in range(first, first + share):
            if position // records != epoch:
                epoch = position // records
                order = np.random.default_rng((seed, _ORDER, epoch)).permutation(records)
            yield int(order[position % records]), (seed, _VIEW, position)


def load_batches(
    dataset: TrainingDataset, *, seed: int, start: int, batch: int, num_workers: int
) -> Iterator[list[dict[str, Any]]]:
    """Yield this process's share of every step, endlessly.

    Args:
        dataset: to read from.
        seed, start, batch: see `sample_records`.
        num_workers: reading processes; 0 reads in this one.
    Raises:
        InputError: the first unreadable record of a batch.
    """
    rank, processes = comm.get_rank(), comm.get_world_size()
    count = len(dataset.records)
    loader = DataLoader(
        dataset,
        sampler=sample_records(count, seed=seed, start=start, batch=batch, rank=rank, processes=processes),
        batch_size=batch // processes,
        num_workers=num_workers,
        collate_fn=list,
        generator=torch.Generator(),  # a separate one, so that loading does not change the training's random numbers
    )
    for views in loader:
        for view in views:
            if isinstance(view, BadRecord):
                raise view.error
        yield views
