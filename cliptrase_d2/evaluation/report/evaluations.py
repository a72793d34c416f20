"""Content of the report page for one evaluation, read from the files that it left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cliptrase_d2.data.benchmarks import Benchmark, find_benchmark
from cliptrase_d2.evaluation.published import published_numbers
from cliptrase_d2.evaluation.report.artefacts import GalleryEntry, read_confusion, read_gallery, read_json


@dataclass(frozen=True)
class EvaluationSource:
    """One evaluation of a run.

    Attributes:
        folder: with metrics.json, confusion.npz and gallery/.
        method: name in the tables, also in those of the paper.
        description: of the method, in a few words.
        link: to the method's paper; "" for none.
    """

    folder: Path
    method: str
    description: str
    link: str = ""


@dataclass(frozen=True)
class Confusion:
    """Confusions of one class.

    Attributes:
        index: of the class.
        iou: in percent.
        correct: percent of its pixels that are predicted as this class.
        taken_for: the classes that most of its other pixels are predicted as, with the percentage of its pixels.
        wrongly_named: percent of the pixels predicted as this class that belong to others; 0 if none is predicted.
        mostly: the class that most of those pixels belong to; None if there are none.
    """

    index: int
    iou: float
    correct: float
    taken_for: list[tuple[int, float]]
    wrongly_named: float
    mostly: int | None


@dataclass(frozen=True)
class Evaluation:
    """One method on one data set.

    Attributes:
        source: where it was read from.
        report: content of metrics.json.
        rows: name and metrics of each class as in metrics.json, the highest IoU first, absent classes last.
        confusions: of the worst classes; None if there is no confusion matrix.
        comparisons: metric, our value and the paper's in percent; empty if the paper has none.
        gallery: pictures.
    """

    source: EvaluationSource
    report: dict[str, Any]
    rows: list[tuple[str, dict[str, Any]]]
    confusions: list[Confusion] | None
    comparisons: list[tuple[str, float | None, float]]
    gallery: list[GalleryEntry]

    @property
    def classes(self) -> list[str]:
        """C names in the order of the data set."""
        return list(self.report["per_class"])

    @property
    def benchmark(self) -> Benchmark | None:
        """The benchmark that the data set is; None for other data sets."""
        return find_benchmark(self.report["dataset"])


def read_evaluation(source: EvaluationSource) -> Evaluation:
    """Read everything about one evaluation.

    Raises:
        InputError: a damaged file.
    """
    report = read_json(source.folder / "metrics.json")
    confusion = read_confusion(source.folder)
    skipped = {Path(entry["file"]).stem for entry in report["skipped"]}  # an earlier run may have drawn them
    return Evaluation(
        source,
        report,
        sorted(report["per_class"].items(), key=lambda item: (item[1]["IoU"] is None, -(item[1]["IoU"] or 0))),
        None if confusion is None else find_worst_classes(confusion),
        compare_with_paper(report, source.method),
        read_gallery(source.folder, [stem for stem in report.get("gallery", []) if stem not in skipped]),
    )


def find_worst_classes(confusion: np.ndarray, count: int = 12, others: int = 4) -> list[Confusion]:
    """Return the confusions of the classes with the lowest IoU among those present in the truth, the worst first.

    Args:
        confusion: [C,C] counts, rows truth, columns prediction; or [C,C+1] with a last column of unknown pixels, which
            are no confusion with a class.
        count: largest number of classes.
        others: largest number of confusions of each; only those of at least one pixel.
    """
    true, confusion = confusion.sum(1), confusion[:, : len(confusion)]
    correct, predicted = confusion.diagonal(), confusion.sum(0)  # [C] each
    iou = 100 * correct / np.maximum(true + predicted - correct, 1)
    wrong = confusion - np.diag(correct)  # [C,C]
    present = np.flatnonzero(true)
    return [
        Confusion(
            index=int(index),
            iou=float(iou[index]),
            correct=100 * float(correct[index] / true[index]),
            taken_for=[
                (int(other), 100 * float(wrong[index, other] / true[index]))
                for other in np.argsort(-wrong[index], kind="stable")[:others]
                if wrong[index, other]
            ],
            wrongly_named=100 * float(wrong[:, index].sum() / max(predicted[index], 1)),
            mostly=int(wrong[:, index].argmax()) if wrong[:, index].any() else None,
        )
        for index in present[np.argsort(iou[present], kind="stable")][:count]
    ]


def compare_with_paper(report: Mapping[str, Any], method: str) -> list[tuple[str, float | None, float]]:
    """Return metric, our value by the paper's formulas and the paper's value, in percent; empty if it has none.

    Args:
        report: content of metrics.json.
        method: its name.
    """
    benchmark, protocol = find_benchmark(report["dataset"]), report["protocol"]
    if not benchmark:
        return []
    numbers = published_numbers(benchmark.key, protocol["name"], protocol["short_side"]).get(method, {})
    return [(metric, report["paper"][metric], percent) for metric, percent in numbers.items()]
