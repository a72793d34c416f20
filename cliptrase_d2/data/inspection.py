"""Inspection of a data set: how complete it is, and whether its files are valid."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from cliptrase_d2.data.benchmarks import Benchmark
from cliptrase_d2.data.custom import DatasetSpec
from cliptrase_d2.data.images import read_image
from cliptrase_d2.data.label_files import read_record_label
from cliptrase_d2.data.labels import LabelRule
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.parallel import map_parallel


@dataclass(frozen=True)
class BenchmarkState:
    """How much of a benchmark exists.

    Attributes:
        pairs: image and label pairs.
        expected: pairs of the complete data set.
        problem: why there are no pairs; "" if there are.
        command: prepares the data set.
    """

    pairs: int
    expected: int
    problem: str
    command: str

    @property
    def is_complete(self) -> bool:
        """Whether all pairs exist."""
        return self.pairs == self.expected


@dataclass
class Findings:
    """Result of reading every file of a data set.

    Attributes:
        pairs: image and label pairs.
        problems: one line each.
        pixels: [C] labelled pixels of each class.
    """

    pairs: int
    problems: list[str]
    pixels: np.ndarray


def get_benchmark_state(benchmark: Benchmark, root: Path) -> BenchmarkState:
    """Count the pairs of a benchmark without opening the files.

    Args:
        benchmark: the benchmark.
        root: folder of all data sets.
    """
    pairs, problem = 0, ""
    try:
        pairs = len(benchmark.spec(root).find_files().records)
    except InputError as error:
        problem = f"{error.where}: {error.got}"
    return BenchmarkState(pairs, benchmark.count, problem, benchmark.prepare_command(root))


def inspect(spec: DatasetSpec, workers: int) -> Findings:
    """Read every file of a data set and check pairs, sizes, encodings and label values.

    Args:
        spec: the data set.
        workers: number of processes.
    Raises:
        InputError: a folder does not exist or has no usable files.
    """
    files = spec.find_files()
    problems = [str(spec.unpaired_error([path], partner)) for path, partner in files.unpaired]
    findings = Findings(len(files.records), problems, np.zeros(len(spec.vocabulary.classes), dtype=np.int64))
    check = partial(_check_pair, rule=spec.label_rule)
    for problem, pixels in map_parallel(check, files.records, workers, title=spec.name, unit="image"):
        findings.problems += [problem] if problem else []
        findings.pixels += pixels
    return findings


def _check_pair(record: dict[str, str], rule: LabelRule) -> tuple[str, np.ndarray]:
    """Return the problem of a pair ("" for none), and [C] the labelled pixels of each class."""
    try:
        image = read_image(record["file_name"])
        if "sem_seg_file_name" not in record:
            return "", np.zeros(rule.num_classes, dtype=np.int64)
        labels = rule.apply(read_record_label(record, image.shape[1::-1]), record["sem_seg_file_name"])
    except InputError as error:
        return str(error), np.zeros(rule.num_classes, dtype=np.int64)
    return "", np.bincount(labels[labels != rule.ignore_label], minlength=rule.num_classes)
