"""Facts about the methods: venue, code, licence, settings and numbers as published, and numbers measured here."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path
from typing import NamedTuple

_FOLDER = Path(__file__).parent
MEASURED = _FOLDER / "measured.csv"
BENCHMARKS = ("voc21", "pc60", "coco_object", "voc20", "pc59", "coco_stuff171", "ade150", "cityscapes19")


class PublishedMethod(NamedTuple):
    """What the authors of a method, or later works, published about it.

    Attributes:
        method: name in ``DENSE_METHODS``.
        venue: conference and year.
        code: repository on GitHub.
        commit: of the code that this package was compared with; "" for none.
        licence: of the code; "none" if the repository has none.
        extra_models: models that it needs besides CLIP; "" for none.
        settings: of the numbers.
        mean_iou: benchmark -> mIoU in percent with ViT-B/16, as far as it is published.
        source: of the numbers.
    """

    method: str
    venue: str
    code: str
    commit: str
    licence: str
    extra_models: str
    settings: str
    mean_iou: dict[str, float]
    source: str


class MeasuredMethod(NamedTuple):
    """Accuracy of a method with Emoji CLIP, and its cost with ViT-B/16, as `tools/measure_methods.py` wrote them.

    Attributes:
        method: name in ``DENSE_METHODS``.
        emoji_pacc, emoji_miou: on the shipped emoji scenes, whole images, in percent; None for a method that reads a
            second model or the published protocol, see `experiments/second_models.py`.
        emoji_seed2_slide_miou: mIoU on the emoji scenes of seed 2, in windows, in percent; None likewise.
        cpu_ms: milliseconds per image of a whole segmentation on one core of a CPU.
        cpu_ratio: the same relative to `encode_image` of CLIP.
        gpu_ms: milliseconds per image on a GPU; None if not measured.
    """

    method: str
    emoji_pacc: float | None
    emoji_miou: float | None
    emoji_seed2_slide_miou: float | None
    cpu_ms: float
    cpu_ratio: float
    gpu_ms: float | None


@cache
def read_published_methods() -> dict[str, PublishedMethod]:
    """Return the published facts by method, from ``published.csv``."""
    return {row["method"]: _convert(row) for row in _read_rows(_FOLDER / "published.csv")}


@cache
def read_measured_methods() -> dict[str, MeasuredMethod]:
    """Return the measured numbers by method, from ``measured.csv``."""
    methods = {}
    for row in _read_rows(MEASURED):
        name = row.pop("method")
        numbers = {column: float(value) if value else None for column, value in row.items()}
        methods[name] = MeasuredMethod(name, **numbers)  # type: ignore[arg-type]  # costs on a CPU are never empty
    return methods


def _read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _convert(row: dict[str, str]) -> PublishedMethod:
    numbers = {name: float(row[name]) for name in BENCHMARKS if row[name]}
    facts = {name: value for name, value in row.items() if name not in BENCHMARKS}
    return PublishedMethod(**facts, mean_iou=numbers)  # type: ignore[arg-type]  # the rest are texts
