"""Reads the records of a data set in worker processes, without losing an error on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader, Dataset

from cliptrase_d2.d2 import DatasetCatalog, MetadataCatalog, comm
from cliptrase_d2.data.register import no_image, no_label
from cliptrase_d2.errors import InputError

ON_ERROR = ("stop", "skip")
Mapper = Callable[[Mapping[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class BadRecord:
    """A record that could not be read, in the place of its input."""

    file_name: str
    error: InputError


class EvaluationLoader(DataLoader):
    """A DataLoader of lists, one dict or ``BadRecord`` each; with ``on_error`` "stop" the latter is raised."""

    def __init__(self, dataset: Dataset, *, batch_size: int, num_workers: int, on_error: str):
        super().__init__(dataset, batch_size=batch_size, num_workers=num_workers, collate_fn=list)
        self.on_error = on_error

    def __iter__(self) -> Iterator[list[Any]]:  # type: ignore[override]  # a generator serves every caller
        """Yield batches; images of one batch may differ in size.

        Raises:
            InputError: of the first record that cannot be read, if ``on_error`` is "stop".
        """
        for batch in super().__iter__():
            if self.on_error == "stop":
                for item in batch:
                    if isinstance(item, BadRecord):
                        raise item.error
            yield batch


def build_evaluation_loader(
    dataset_name: str, mapper: Mapper, *, batch_size: int, num_workers: int, on_error: str
) -> EvaluationLoader:
    """Loader over this process's share of a registered data set, in its order.

    Every record goes to exactly one process: every W-th to each of W.

    Args:
        dataset_name: as registered.
        mapper: record -> input of the model.
        batch_size: records of one list.
        num_workers: reading processes; 0 reads in this one.
        on_error: "stop" raises the error of a bad record; "skip" yields it as a ``BadRecord``.
    Raises:
        InputError: an unregistered name, a folder that cannot be used; with "stop" also unpaired files.
    """
    if on_error not in ON_ERROR:
        raise InputError("TEST.ON_ERROR", repr(on_error), " or ".join(ON_ERROR), "Choose one of these.")
    if dataset_name not in DatasetCatalog.list():
        known = ", ".join(sorted(DatasetCatalog.list())) or "none"
        raise InputError(
            "DATASETS.TEST", f"the unknown data set {dataset_name!r}", known, "Register it, or use --dataset D.yaml."
        )
    records = _list_records(dataset_name, on_error)[comm.get_rank() :: comm.get_world_size()]
    return EvaluationLoader(
        _MappedRecords(records, mapper), batch_size=batch_size, num_workers=num_workers, on_error=on_error
    )


def spread_over(dataset_name: str, count: int, on_error: str) -> list[str]:
    """File names of images that are evenly spread over a registered data set, the same in every process.

    Args:
        dataset_name: as registered.
        count: images wanted; all are given where there are fewer.
        on_error: as in ``build_evaluation_loader``; with "skip", files without their partner are passed over.
    """
    records = _list_records(dataset_name, on_error)
    names = [record["file_name"] for record in records if not isinstance(record, BadRecord)]
    count = min(count, len(names))
    return [names[(2 * part + 1) * len(names) // (2 * count)] for part in range(count)]  # the middle of each part


def split_batch(batch: Sequence[Any]) -> tuple[list[dict[str, Any]], list[BadRecord]]:
    """The inputs of a batch and what could not be read."""
    return (
        [item for item in batch if not isinstance(item, BadRecord)],
        [item for item in batch if isinstance(item, BadRecord)],
    )


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


def _list_records(dataset_name: str, on_error: str) -> list[Any]:
    """The records; with "skip" a file without its partner is a ``BadRecord`` among them, else an error."""
    spec = MetadataCatalog.get(dataset_name).get("spec")
    if on_error == "stop" or spec is None or spec.labels is None:
        return DatasetCatalog.get(dataset_name)
    found = spec.find_files()
    return [
        *found.records,
        *(BadRecord(str(path), no_image([path], spec.images)) for path in found.labels_without_image),
        *(BadRecord(str(path), no_label([path], spec.labels)) for path in found.images_without_label),
    ]
