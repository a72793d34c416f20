"""Content of the report page for one evaluation, read from the files that it left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cliptrase_d2.data.benchmarks import Benchmark, find_benchmark
from cliptrase_d2.evaluation.output_names import get_output_name
from cliptrase_d2.evaluation.published import published_numbers
from cliptrase_d2.evaluation.report.artefacts import (
    GalleryEntry,
    read_confusion,
    read_gallery,
    read_json,
    read_timing,
)
from cliptrase_d2.unknown import UNKNOWN_NAME

_LEAST_PERCENT = 0.5  # of a cell of a heat map; smaller ones would be shown as 0
_OTHERS = "other classes"


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
class HeatMap:
    """Picture of a confusion matrix.

    Attributes:
        rows: names of true classes; the last may be "other classes".
        columns: names of predicted classes: those of the rows, then "other classes" and "unknown" if they occur.
        classes: number of rows and columns of single classes.
        cells: row, column, percent of the pixels of the row; only cells that are not almost 0.
        is_part: whether there are more true classes than rows.
    """

    rows: list[str]
    columns: list[str]
    classes: int
    cells: list[tuple[int, int, float]]
    is_part: bool


@dataclass(frozen=True)
class Evaluation:
    """One method on one data set.

    Attributes:
        source: where it was read from.
        report: content of metrics.json.
        confusions: of the worst classes; None if there is no confusion matrix.
        heat_map: None if there is no confusion matrix, or no pixel was scored.
        timing: ``finished``, ``seconds``, ``saved`` and ``images`` of the run that ended the evaluation; None if not
            measured.
        comparisons: metric, our value and the paper's in percent; empty if the paper has none.
        gallery: pictures.
    """

    source: EvaluationSource
    report: dict[str, Any]
    confusions: list[Confusion] | None
    heat_map: HeatMap | None
    timing: dict[str, Any] | None
    comparisons: list[tuple[str, float | None, float]]
    gallery: list[GalleryEntry]

    @property
    def classes(self) -> list[str]:
        """C names in the order of the data set."""
        return list(self.report["per_class"])

    @property
    def speed(self) -> float | None:
        """Images per second of the method alone.

        None if it was not measured or an earlier run had finished all images.
        """
        timing = self.timing
        if not timing or not timing["images"]:
            return None
        seconds = timing["seconds"] + timing.get("saved", 0.0)  # earlier versions did not write "saved"
        return timing["images"] / seconds if seconds else None

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
    base = report.get("output_base")
    skipped = {
        get_output_name(entry["file"], base) for entry in report["skipped"]
    }  # an earlier run may have drawn them
    return Evaluation(
        source,
        report,
        None if confusion is None else find_worst_classes(confusion),
        make_heat_map(confusion, list(report["per_class"])) if confusion is not None and confusion.any() else None,
        read_timing(source.folder),
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


def make_heat_map(confusion: np.ndarray, names: Sequence[str], limit: int = 20) -> HeatMap:
    """Return the picture of a confusion matrix: the classes in the ground truth, in the order of the data set.

    Args:
        confusion: [C,C] or [C,C+1] counts, as in ``find_worst_classes``; at least one is not 0.
        names: of the C classes.
        limit: largest number of classes. If there are more, those with the most wrong pixels are shown: pixels of the
            class that are predicted as another, and pixels predicted as the class that belong to others.
    """
    num_classes, true = len(confusion), confusion.sum(1)
    wrong = true + confusion[:, :num_classes].sum(0) - 2 * confusion.diagonal()  # [C]
    present = np.flatnonzero(true)
    shown = np.sort(present[np.argsort(-wrong[present], kind="stable")[:limit]])  # [K]
    place = np.full(confusion.shape[1], len(shown))  # all other classes share place K
    place[shown] = np.arange(len(shown))
    place[num_classes:] = len(shown) + 1
    counts = np.zeros((len(shown) + 1, len(shown) + 2), np.int64)
    np.add.at(counts, (place[:num_classes, None], place[None]), confusion)
    is_part = len(present) > len(shown)
    labels = [*(names[index] for index in shown), _OTHERS, UNKNOWN_NAME]
    kept = [column for column in range(len(labels)) if column < len(shown) or counts[:, column].any()]
    counts = counts[: len(shown) + is_part]
    percent = 100 * counts[:, kept] / counts.sum(1, keepdims=True)
    places = np.argwhere(percent >= _LEAST_PERCENT).tolist()
    cells = [(row, column, float(percent[row, column])) for row, column in places]
    return HeatMap(labels[: len(counts)], [labels[column] for column in kept], len(shown), cells, is_part)


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
