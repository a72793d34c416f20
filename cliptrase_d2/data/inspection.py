"""Inspection of a data set: how complete it is, and whether its files are valid."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from cliptrase_d2.data.benchmarks import Benchmark
from cliptrase_d2.data.custom import DatasetSpec
from cliptrase_d2.data.images import read_picture
from cliptrase_d2.data.label_files import read_record_label
from cliptrase_d2.data.label_warnings import find_label_warnings
from cliptrase_d2.data.labels import LabelRule
from cliptrase_d2.data.palettes import find_palette_conflict
from cliptrase_d2.data.rendering import RawRange, Rendering, describe_narrow_range, join_ranges
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
        ignored: number of labelled pixels that are not scored.
        warnings: one line for each fact that often means misread files.
    """

    pairs: int
    problems: list[str]
    pixels: np.ndarray
    ignored: int
    warnings: list[str]


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
    pixels = np.zeros(len(spec.vocabulary.classes) + 1, dtype=np.int64)  # [C+1], the last: not scored
    ranges: list[RawRange | None] = []
    check = partial(_check_pair, rule=spec.label_rule, rendering=spec.rendering)
    for problem, counts, raw_range in map_parallel(check, files.records, workers, title=spec.name, unit="image"):
        problems += [problem] if problem else []
        pixels += counts
        ranges = [join_ranges([*ranges, raw_range])]
    labels = [record["sem_seg_file_name"] for record in files.records if "sem_seg_file_name" in record]
    warnings = [find_palette_conflict(labels, spec.label_rule), *(describe_narrow_range(range_) for range_ in ranges)]
    warnings += find_label_warnings(pixels[:-1].tolist(), int(pixels[-1]), spec.label_rule)
    return Findings(len(files.records), problems, pixels[:-1], int(pixels[-1]), list(filter(None, warnings)))


def _check_pair(
    record: dict[str, str], rule: LabelRule, rendering: Rendering
) -> tuple[str, np.ndarray, RawRange | None]:
    """Return the problem of a pair ("" for none), pixel counts [C+1] of classes and unscored pixels, and raw values."""
    nothing = np.zeros(rule.num_classes + 1, dtype=np.int64)
    try:
        picture = read_picture(record["file_name"], rendering=rendering)
        if "sem_seg_file_name" not in record:
            return "", nothing, picture.raw_range
        raw = read_record_label(record, picture.pixels.shape[1::-1], rule)
        labels = rule.apply(raw, record["sem_seg_file_name"])
    except InputError as error:
        return str(error), nothing, None
    is_scored = (labels != rule.ignore_label) & (True if picture.valid is None else picture.valid)
    indices = np.where(is_scored, labels, rule.num_classes)  # [H,W]
    return "", np.bincount(indices.ravel(), minlength=rule.num_classes + 1), picture.raw_range
