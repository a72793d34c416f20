"""What the paper reports on its nine benchmarks, at 224 and at 336 pixels (supplement, Tables 3 and 4; 1: ablation)."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

PUBLISHED_PROTOCOL = "center_crop"


class AblationRow(NamedTuple):
    """A row of Table 1.

    Attributes:
        title: as the paper prints it.
        mean_iou: benchmark -> mIoU in percent.
    """

    title: str
    mean_iou: dict[str, float]


def published_numbers(benchmark: str, protocol: str, short_side: int) -> dict[str, dict[str, float]]:
    """The paper's row of a benchmark.

    Args:
        benchmark: ``Benchmark.published``; "" for none of the paper's.
        protocol: of the evaluation; the paper has numbers for ``PUBLISHED_PROTOCOL`` alone.
        short_side: of the centre crops, in pixels.
    Returns:
        System, "clip", "sclip" or "cliptrase" -> the paper's column -> percent; empty where the paper has no numbers.
        Ours by the same rules stand under ``paper`` in metrics.json.
    """
    if protocol != PUBLISHED_PROTOCOL:
        return {}
    tables = _tables()
    row = tables["short_side"].get(str(short_side), {}).get(benchmark, {})
    return {system: dict(zip(tables["metrics"], numbers, strict=True)) for system, numbers in row.items()}


def published_source() -> str:
    """Where the numbers stand, and what they were measured with."""
    return _tables()["source"]


def published_ablation() -> dict[str, AblationRow]:
    """Table 1: name of the system that is a row -> the row, in the paper's order.

    Which system each row is follows from its text and its numbers; the paper does not say whether the first row, 67.77
    on VOC20 where Table 3 has 41.88 for CLIP, has clusters.
    """
    table = _tables()["ablation"]
    return {
        system: AblationRow(title, dict(zip(table["benchmarks"], numbers, strict=True)))
        for system, (title, *numbers) in table["rows"].items()
    }


def ablation_source() -> str:
    """Where the numbers of ``published_ablation`` stand."""
    return _tables()["ablation"]["source"]


@cache
def _tables() -> dict[str, Any]:
    return json.loads((Path(__file__).parent / "published.json").read_text(encoding="utf-8"))
