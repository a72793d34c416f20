"""The endless stream of training images: what comes when is a function of the seed and the place in the stream.

So a training that goes on after a break sees what it would have seen, with any number of workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from cliptrase_d2.data.image_files import MAX_PIXELS, check_bound
from cliptrase_d2.data.images import read_image, read_label_of
from cliptrase_d2.data.labels import LabelRule
from cliptrase_d2.data.loader import PackedRecords
from cliptrase_d2.data.packed_batch import BadRecord
from cliptrase_d2.san.augment import Augmentation
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vocabulary import Vocabulary

_ORDER, _VIEW = 0, 1  # two kinds of random numbers that one seed gives


class TrainingMapper:
    """Reads a record and takes a random view of it.

    Args:
        augmentation: the views.
        vocabulary: the classes, handed on to the model.
        label_rule: how raw label values become class indices.
        max_pixels: most of an image that is decoded; 0 for no bound.
    """

    def __init__(
        self, augmentation: Augmentation, vocabulary: Vocabulary, label_rule: LabelRule, max_pixels: int = MAX_PIXELS
    ):
        self.augmentation, self.vocabulary, self.label_rule = augmentation, vocabulary, label_rule
        self.max_pixels = check_bound(max_pixels)

    def __call__(self, record: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """A view of one record.

        Args:
            record: ``file_name`` and ``sem_seg_file_name``.
            rng: decides the view.
        Returns:
            The record with ``image`` [3,H,W] uint8 RGB, ``sem_seg`` [H,W] int64, ``vocabulary``, and ``num_masks``,
            the number of classes in the view.
        Raises:
            InputError: a file that cannot be used, or a label outside the classes.
        """
        image = read_image(record["file_name"], self.max_pixels)
        raw = read_label_of(record, (image.shape[1], image.shape[0]))
        labels = self.label_rule.apply(raw, record["sem_seg_file_name"])
        image, labels = self.augmentation(image, labels, rng, self.label_rule.ignore_label)
        present = np.unique(labels)
        return {
            **record,
            "image": torch.from_numpy(image).permute(2, 0, 1).contiguous(),
            "sem_seg": torch.from_numpy(labels.astype(np.int64)),
            "vocabulary": self.vocabulary,
            "num_masks": int(np.count_nonzero((present >= 0) & (present < self.label_rule.num_classes))),
        }


class TrainingOrder(Sampler[tuple[int, int]]):
    """Places in the stream that one process sees, each with the index of its record; endless.

    The stream is one random order of all records after the other.

    Args:
        records: their number.
        seed: of the orders.
        start: place in the stream of the first image, the same in every process.
        batch: images of a step, in all processes.
        rank, processes: every process takes its part of every step.
    """

    def __init__(self, records: int, *, seed: int, start: int, batch: int, rank: int = 0, processes: int = 1):
        self.records, self.seed, self.start, self.batch = records, seed, start, batch
        self.rank, self.processes = rank, processes

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield (place, index)."""
        part = self.batch // self.processes
        first = self.start + self.rank * part
        epoch, order = -1, np.empty(0, dtype=np.int64)
        while True:
            for place in range(first, first + part):
                if place // self.records != epoch:
                    epoch = place // self.records
                    order = np.random.default_rng((self.seed, _ORDER, epoch)).permutation(self.records)
                yield place, int(order[place % self.records])
            first += self.batch


class TrainingLoader(DataLoader):
    """Endless lists of views, this process's part of every step.

    Args:
        records: of the data set.
        mapper: record and random generator -> input of the model.
        order: what comes when.
        num_workers: reading processes; 0 reads in this one.
    """

    def __init__(
        self, records: Sequence[Mapping[str, Any]], mapper: TrainingMapper, order: TrainingOrder, *, num_workers: int
    ):
        super().__init__(
            _Views(PackedRecords(records), mapper, order.seed),
            sampler=order,
            batch_size=order.batch // order.processes,
            num_workers=num_workers,
            collate_fn=list,
            generator=torch.Generator(),  # its own, so that reading moves no random number of the training
        )

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:  # type: ignore[override]  # a generator serves every caller
        """Yield lists.

        Raises:
            InputError: of the first record that cannot be read.
        """
        for batch in super().__iter__():
            for item in batch:
                if isinstance(item, BadRecord):
                    raise item.error
            yield batch


class _Views(Dataset):
    def __init__(self, records: PackedRecords, mapper: TrainingMapper, seed: int):
        self.records, self.mapper, self.seed = records, mapper, seed

    def __getitem__(self, place_and_index: tuple[int, int]) -> dict[str, Any] | BadRecord:
        place, index = place_and_index
        record = self.records[index]
        try:
            return self.mapper(record, np.random.default_rng((self.seed, _VIEW, place)))
        except InputError as error:  # handed over as a value: torch rebuilds a worker's exception from its text
            return BadRecord(record["file_name"], error)
