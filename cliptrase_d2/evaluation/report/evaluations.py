"""What a page shows of each evaluation, read from the files that it left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cliptrase_d2.data.benchmarks import Benchmark, benchmark_of
from cliptrase_d2.evaluation.published import published_numbers
from cliptrase_d2.evaluation.report.artefacts import GalleryEntry, read_confusion, read_gallery, read_report
from cliptrase_d2.evaluation.report.confusions import Confusion, worst_confusions


@dataclass(frozen=True)
class Source:
    """One evaluation of a run, as the page is told of it.

    Attributes:
        folder: with metrics.json, confusion.npz and gallery/.
        system: what the tables call it.
        description: of the system, a few words.
        link: where it is described; "" for nowhere.
        published_as: its name among the paper's systems; "" if it is none of them.
    """

    folder: Path
    system: str
    description: str
    link: str = ""
    published_as: str = ""


@dataclass(frozen=True)
class ClassRow:
    """IoU and accuracy in percent, None for a class that is absent from the truth, and the pixels that it has there."""

    name: str
    iou: float | None
    accuracy: float | None
    pixels: int


@dataclass(frozen=True)
class Comparison:
    """A number beside the paper's, in percent; ``ours`` is None where nothing was scored."""

    metric: str
    ours: float | None
    published: float

    @property
    def difference(self) -> float | None:
        """Ours less the paper's, in points."""
        return None if self.ours is None else self.ours - self.published


@dataclass(frozen=True)
class Evaluation:
    """One system on one data set.

    Attributes:
        source: where this was read.
        report: content of metrics.json.
        rows: classes, the highest IoU first, those that are absent last.
        confusions: of the worst classes; None where the matrix was not kept.
        comparisons: with the paper's numbers; empty where it has none.
        gallery: pictures.
    """

    source: Source
    report: dict[str, Any]
    rows: list[ClassRow]
    confusions: list[Confusion] | None
    comparisons: list[Comparison]
    gallery: list[GalleryEntry]

    @property
    def classes(self) -> list[str]:
        """C names in the order of the data set."""
        return list(self.report["per_class"])

    @property
    def benchmark(self) -> Benchmark | None:
        """None for a data set that is none of the known ones."""
        return benchmark_of(self.report["dataset"])


def read_evaluation(source: Source) -> Evaluation:
    """Everything about one evaluation.

    Raises:
        InputError: a broken file.
    """
    report = read_report(source.folder)
    confusion = read_confusion(source.folder)
    skipped = {Path(entry["file"]).stem for entry in report["skipped"]}  # an earlier run may have drawn them
    return Evaluation(
        source,
        report,
        class_rows(report["per_class"]),
        None if confusion is None else worst_confusions(confusion),
        comparisons(report, source.published_as),
        read_gallery(source.folder, [stem for stem in report.get("gallery", []) if stem not in skipped]),
    )


def class_rows(per_class: Mapping[str, Mapping[str, Any]]) -> list[ClassRow]:
    """Rows of metrics.json, the highest IoU first; classes that are absent stand last, in their own order."""
    rows = [ClassRow(name, of["IoU"], of["accuracy"], of["pixels"]) for name, of in per_class.items()]
    return sorted(rows, key=lambda row: (row.iou is None, -(row.iou or 0)))


def comparisons(report: Mapping[str, Any], published_as: str) -> list[Comparison]:
    """Our numbers by the paper's formulas beside those that it reports; empty where it reports none.

    Args:
        report: content of metrics.json.
        published_as: the system's name in the paper's tables.
    """
    benchmark, protocol = benchmark_of(report["dataset"]), report["protocol"]
    if not benchmark:
        return []
    numbers = published_numbers(benchmark.published, protocol["name"], protocol["short_side"]).get(published_as, {})
    return [Comparison(metric, report["paper"][metric], percent) for metric, percent in numbers.items()]
