"""Published facts about the methods: venue, code, licence, settings and numbers."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path
from typing import NamedTuple

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


@cache
def read_published_methods() -> dict[str, PublishedMethod]:
    """Return the published facts by method, from ``published.csv``."""
    with (Path(__file__).parent / "published.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {row["method"]: _convert(row) for row in rows}


def _convert(row: dict[str, str]) -> PublishedMethod:
    numbers = {name: float(row[name]) for name in BENCHMARKS if row[name]}
    facts = {name: value for name, value in row.items() if name not in BENCHMARKS}
    return PublishedMethod(**facts, mean_iou=numbers)  # type: ignore[arg-type]  # the rest are texts
