"""Loading of a data set's records in worker processes."""

from __future__ import annotations

import pickle  # nosec B403  # of objects that this process or its workers made
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cliptrase_d2.d2 import DatasetCatalog, MetadataCatalog, comm
from cliptrase_d2.data.register import name_dataset, require_registered
from cliptrase_d2.utils.errors import InputError, check_choice

ON_ERROR = ("stop", "skip")
_ALIGNMENT = 64  # bytes; start of every tensor in a packed batch


@dataclass(frozen=True)
class BadRecord:
    """A record that could not be read, in the place of its input."""

    file_name: str
    error: InputError


Mapper = Callable[[Mapping[str, Any]], dict[str, Any]]
Item = dict[str, Any] | BadRecord


class EvaluationLoader(DataLoader):
    """A DataLoader whose batches are lists of inputs and ``BadRecord`` objects.

    Attributes:
        indices: index of each loaded record in the list of the entire data set.
    """

    def __init__(self, dataset: Dataset, indices: np.ndarray, *, batch_size: int, num_workers: int, on_error: str):
        collate = PackedBatch.pack if num_workers else list
        super().__init__(dataset, batch_size=batch_size, num_workers=num_workers, collate_fn=collate)
        self.indices = indices
        self.on_error = on_error

    def __iter__(self) -> Iterator[list[Any]]:  # type: ignore[override]  # a generator serves every caller
        """Yield batches. The images of a batch may differ in size.

        Raises:
            InputError: a record cannot be read, and ``on_error`` is "stop".
        """
        for batch in super().__iter__():
            items = batch.unpack() if isinstance(batch, PackedBatch) else batch
            if self.on_error == "stop":
                for item in items:
                    if isinstance(item, BadRecord):
                        raise item.error
            yield items


def build_evaluation_loader(
    records: Sequence[Any],
    mapper: Mapper,
    *,
    batch_size: int,
    num_workers: int,
    on_error: str,
    done: np.ndarray | None = None,
) -> EvaluationLoader:
    """Build a loader of this process's share of a data set, in the order of the data set.

    Of the remaining records, each of W processes loads every W-th.

    Args:
        records: the entire data set, from ``list_records``.
        mapper: record -> input of the model.
        batch_size: records in a batch.
        num_workers: worker processes; 0 to read in this process.
        on_error: "stop" to raise the error of a bad record, "skip" to yield a ``BadRecord``.
        done: [len(records)] bool, records to leave out, the same in every process; None for none.
    """
    remaining = np.arange(len(records)) if done is None else np.flatnonzero(~done)
    indices = remaining[comm.get_rank() :: comm.get_world_size()]
    share = PackedRecords(records[index] for index in indices)
    return EvaluationLoader(
        _MappedRecords(share, mapper), indices, batch_size=batch_size, num_workers=num_workers, on_error=on_error
    )


def list_records(dataset_name: str, on_error: str) -> list[Any]:
    """Return the records of a registered data set. With "skip", each file without a partner becomes a ``BadRecord``.

    Raises:
        InputError: the name is not registered, a folder cannot be used or, with "stop", a file has no partner.
    """
    check_choice("on_error", on_error, ON_ERROR)
    require_registered(dataset_name)
    spec = MetadataCatalog.get(dataset_name).get("spec")
    if on_error == "stop" or spec is None or spec.labels is None:
        try:
            return DatasetCatalog.get(dataset_name)
        except OSError as error:  # of a data set that another package registered
            got, fix = f"{dataset_name!r} cannot be listed ({error})", "Check its files and DETECTRON2_DATASETS."
            raise InputError("dataset_name", got, fix) from error
    files = spec.find_files()
    unpaired = [BadRecord(str(path), spec.unpaired_error([path], partner)) for path, partner in files.unpaired]
    return [*name_dataset(files.records, dataset_name), *unpaired]


def file_names(records: Sequence[Any]) -> list[str]:
    """Return the file names of records, including bad ones."""
    return [record.file_name if isinstance(record, BadRecord) else record["file_name"] for record in records]


def sample_evenly(records: Sequence[Any], count: int) -> list[str]:
    """Return the file names of evenly spaced images of a data set, the same in every process.

    Args:
        records: from ``list_records``. Bad records are left out.
        count: number of images; all of them if there are fewer.
    """
    names = file_names([record for record in records if not isinstance(record, BadRecord)])
    count = min(count, len(names))
    return [names[(2 * part + 1) * len(names) // (2 * count)] for part in range(count)]  # the middle of each part


class PackedRecords(Sequence):
    """Records, pickled into one array.

    Reading a Python object changes its reference count, which copies its memory page in every forked worker. With 164k
    records that would cost some hundred megabytes for each worker.
    """

    def __init__(self, records: Iterable[Any]):
        packed = [pickle.dumps(record, pickle.HIGHEST_PROTOCOL) for record in records]
        self._ends = np.cumsum([len(record) for record in packed], dtype=np.int64)
        self._bytes = np.frombuffer(b"".join(packed), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: Any) -> Any:
        start = self._ends[index - 1] if index else 0
        return pickle.loads(self._bytes[start : self._ends[index]].tobytes())  # nosec B301  # pickled by this object


@dataclass(frozen=True)
class PackedBatch:
    """A batch whose tensors share one piece of memory.

    PyTorch sends each tensor to another process in a file of its own, which costs the receiver half a millisecond.

    Attributes:
        head: the pickled batch without the values of its tensors.
        spans: first and end byte of each tensor in ``values``.
        values: uint8.
    """

    head: bytes
    spans: list[tuple[int, int]]
    values: Tensor

    @classmethod
    def pack(cls, batch: list[Item]) -> PackedBatch:
        """Pack a batch. The values of its tensors are copied."""
        buffers: list[pickle.PickleBuffer] = []
        items = [_convert_values(item, Tensor, lambda tensor: tensor.contiguous().numpy()) for item in batch]
        head = pickle.dumps(items, protocol=5, buffer_callback=buffers.append)
        arrays = [np.frombuffer(buffer.raw(), dtype=np.uint8) for buffer in buffers]
        starts = np.cumsum([0, *(-(-len(array) // _ALIGNMENT) * _ALIGNMENT for array in arrays)]).tolist()
        spans = [(start, start + len(array)) for start, array in zip(starts, arrays, strict=False)]
        values = torch.empty(starts[-1], dtype=torch.uint8)
        for (start, end), array in zip(spans, arrays, strict=True):
            values.numpy()[start:end] = array
        return cls(head, spans, values)

    def unpack(self) -> list[Item]:
        """Return the batch. Its tensors are views of one piece of memory."""
        buffers = [self.values.numpy()[start:end] for start, end in self.spans]
        items = pickle.loads(self.head, buffers=buffers)  # nosec B301  # pickled by `pack`
        return [_convert_values(item, np.ndarray, torch.from_numpy) for item in items]


def _convert_values(item: Item, kind: type, convert: Callable[[Any], Any]) -> Item:
    """Convert the values of one type in an item, also those in a list."""
    if isinstance(item, BadRecord):
        return item

    def convert_value(value: Any) -> Any:
        if isinstance(value, list):
            return [convert_value(part) for part in value]
        return convert(value) if isinstance(value, kind) else value

    return {key: convert_value(value) for key, value in item.items()}


class _MappedRecords(Dataset):
    def __init__(self, records: Sequence[Any], mapper: Mapper):
        self.records = records
        self.mapper = mapper

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Item:
        record = self.records[index]
        if isinstance(record, BadRecord):
            return record
        try:
            return self.mapper(record)
        except InputError as error:  # returned as a value: PyTorch rebuilds a worker's exception from its text
            return BadRecord(record["file_name"], error)
