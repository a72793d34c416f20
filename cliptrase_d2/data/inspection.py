"""What is there of a data set, and whether it is sound."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from cliptrase_d2.data.benchmarks import Benchmark
from cliptrase_d2.data.custom import DatasetSpec
from cliptrase_d2.data.files import FoundFiles
from cliptrase_d2.data.images import read_image, read_label_of
from cliptrase_d2.data.labels import LabelRule
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.parallel import in_parallel


@dataclass(frozen=True)
class BenchmarkState:
    """What is there of a benchmark.

    Attributes:
        found: pairs of image and labels.
        expected: pairs of the complete data set.
        problem: why there is nothing, "" where there is something.
        remedy: the command that prepares the data set.
    """

    found: int
    expected: int
    problem: str
    remedy: str

    @property
    def is_complete(self) -> bool:
        """Whether all of it is there."""
        return self.found == self.expected


@dataclass
class Findings:
    """What looking at every file of a data set found.

    Attributes:
        pairs: of image and labels.
        problems: one line each.
        pixels: [C] true pixels of each class.
    """

    pairs: int
    problems: list[str] = field(default_factory=list)
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))


def benchmark_state(benchmark: Benchmark, root: Path) -> BenchmarkState:
    """Count the files of a benchmark without opening them."""
    remedy = benchmark.remedy(root)
    try:
        found = benchmark.spec(root).find_files()
    except InputError as error:
        return BenchmarkState(0, benchmark.count, f"{error.where}: {error.got}", remedy)
    return BenchmarkState(len(found.records), benchmark.count, "", remedy)


def inspect(spec: DatasetSpec, workers: int) -> Findings:
    """Open every file of a data set: pairs, sizes, encodings, and label values against the class list.

    Args:
        spec: the data set.
        workers: processes.
    Raises:
        InputError: a folder that is missing or holds nothing usable.
    """
    found = spec.find_files()
    findings = Findings(len(found.records), list(_unpaired(found)))
    look = partial(_look_at, rule=spec.label_rule)
    total = np.zeros(len(spec.vocabulary.classes), dtype=np.int64)
    for problem, pixels in in_parallel(look, found.records, workers, title=spec.name, unit="image"):
        if problem:
            findings.problems.append(problem)
        total += pixels
    findings.pixels = total
    return findings


def _unpaired(found: FoundFiles) -> Iterator[str]:
    for path in found.images_without_label:
        yield f"{path}: no label file of that stem"
    for path in found.labels_without_image:
        yield f"{path}: no image of that stem"


def _look_at(record: dict[str, str], rule: LabelRule) -> tuple[str, np.ndarray]:
    """A problem of a pair, "" for none, and its [C] pixels of each class."""
    pixels = np.zeros(rule.num_classes, dtype=np.int64)
    try:
        image = read_image(record["file_name"])
        if "sem_seg_file_name" not in record:
            return "", pixels
        labels = rule.apply(read_label_of(record, image.shape[1::-1]), record["sem_seg_file_name"])
    except InputError as error:
        return str(error), pixels
    return "", np.bincount(labels[labels != rule.ignore_label], minlength=rule.num_classes)
