"""Reads the records of a data set in worker processes, without losing an error on the way."""

from __future__ import annotations

import pickle  # nosec B403  # of what this process has made itself
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from cliptrase_d2.d2 import DatasetCatalog, MetadataCatalog, comm
from cliptrase_d2.data.packed_batch import BadRecord, PackedBatch
from cliptrase_d2.data.register import no_image, no_label
from cliptrase_d2.utils.errors import InputError

ON_ERROR = ("stop", "skip")
Mapper = Callable[[Mapping[str, Any]], dict[str, Any]]


class EvaluationLoader(DataLoader):
    """A DataLoader of lists, one dict or ``BadRecord`` each; with ``on_error`` "stop" the latter is raised.

    Attributes:
        indices: place of each record, in the order in which they come, in the list of the whole data set.
    """

    def __init__(self, dataset: Dataset, indices: np.ndarray, *, batch_size: int, num_workers: int, on_error: str):
        collate = PackedBatch.of if num_workers else list
        super().__init__(dataset, batch_size=batch_size, num_workers=num_workers, collate_fn=collate)
        self.indices = indices
        self.on_error = on_error

    def __iter__(self) -> Iterator[list[Any]]:  # type: ignore[override]  # a generator serves every caller
        """Yield batches; images of one batch may differ in size.

        Raises:
            InputError: of the first record that cannot be read, if ``on_error`` is "stop".
        """
        for given in super().__iter__():
            batch = given.unpack() if isinstance(given, PackedBatch) else given
            if self.on_error == "stop":
                for item in batch:
                    if isinstance(item, BadRecord):
                        raise item.error
            yield batch


def build_evaluation_loader(
    records: Sequence[Any],
    mapper: Mapper,
    *,
    batch_size: int,
    num_workers: int,
    on_error: str,
    done: np.ndarray | None = None,
) -> EvaluationLoader:
    """Loader over this process's share of a data set, in its order.

    Every record that is left goes to exactly one process: every W-th to each of W.

    Args:
        records: of the whole data set, as ``list_records`` gives them.
        mapper: record -> input of the model.
        batch_size: records of one list.
        num_workers: reading processes; 0 reads in this one.
        on_error: "stop" raises the error of a bad record; "skip" yields it as a ``BadRecord``.
        done: [len(records)] bool, what is not to be read, the same in every process; None for nothing.
    """
    left = np.arange(len(records)) if done is None else np.flatnonzero(~done)
    indices = left[comm.get_rank() :: comm.get_world_size()]
    share = PackedRecords(records[index] for index in indices)
    return EvaluationLoader(
        _MappedRecords(share, mapper), indices, batch_size=batch_size, num_workers=num_workers, on_error=on_error
    )


def list_records(dataset_name: str, on_error: str) -> list[Any]:
    """The records of a registered data set; with "skip" a file without its partner is a ``BadRecord`` among them.

    Raises:
        InputError: an unregistered name, a folder that cannot be used; with "stop" also unpaired files.
    """
    if on_error not in ON_ERROR:
        raise InputError("TEST.ON_ERROR", repr(on_error), "Choose one of these.", allowed=" or ".join(ON_ERROR))
    if dataset_name not in DatasetCatalog.list():
        known = ", ".join(sorted(DatasetCatalog.list())) or "none"
        raise InputError(
            "DATASETS.TEST",
            f"the unknown data set {dataset_name!r}",
            "Register it, or use --dataset D.yaml.",
            allowed=known,
        )
    spec = MetadataCatalog.get(dataset_name).get("spec")
    if on_error == "stop" or spec is None or spec.labels is None:
        return DatasetCatalog.get(dataset_name)
    found = spec.find_files()
    return [
        *found.records,
        *(BadRecord(str(path), no_image([path], spec.images)) for path in found.labels_without_image),
        *(BadRecord(str(path), no_label([path], spec.labels)) for path in found.images_without_label),
    ]


def file_names(records: Sequence[Any]) -> list[str]:
    """Image files of records, those that cannot be used included."""
    return [record.file_name if isinstance(record, BadRecord) else record["file_name"] for record in records]


def spread_over(records: Sequence[Any], count: int) -> list[str]:
    """File names of images that are evenly spread over a data set, the same in every process.

    Args:
        records: as ``list_records`` gives them; those that cannot be used are passed over.
        count: images wanted; all are given where there are fewer.
    """
    names = file_names([record for record in records if not isinstance(record, BadRecord)])
    count = min(count, len(names))
    return [names[(2 * part + 1) * len(names) // (2 * count)] for part in range(count)]  # the middle of each part


def split_batch(batch: Sequence[Any]) -> tuple[list[dict[str, Any]], list[BadRecord]]:
    """The inputs of a batch and what could not be read."""
    return (
        [item for item in batch if not isinstance(item, BadRecord)],
        [item for item in batch if isinstance(item, BadRecord)],
    )


class PackedRecords(Sequence):
    """Records as bytes in one array.

    Reading a Python object writes to its reference count, which gives every forked process a copy of all records by and
    by; with 164k of them that is some hundred megabytes per worker.
    """

    def __init__(self, records: Iterable[Any]):
        packed = [pickle.dumps(record, pickle.HIGHEST_PROTOCOL) for record in records]
        self._ends = np.cumsum([len(record) for record in packed], dtype=np.int64)
        self._bytes = np.frombuffer(b"".join(packed), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: Any) -> Any:
        start = self._ends[index - 1] if index else 0
        return pickle.loads(self._bytes[start : self._ends[index]].tobytes())  # nosec B301  # written by this object


class _MappedRecords(Dataset):
    def __init__(self, records: Sequence[Any], mapper: Mapper):
        self.records = records
        self.mapper = mapper

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any] | BadRecord:
        record = self.records[index]
        if isinstance(record, BadRecord):
            return record
        try:
            return self.mapper(record)
        except InputError as error:  # handed over as a value: torch rebuilds a worker's exception from its text
            return BadRecord(record["file_name"], error)
