"""Numbers that the paper reports on its nine benchmarks (supplement: Tables 3 and 4 at 224 and 336 pixels, Table 1)."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

PUBLISHED_PROTOCOL = "center_crop"


class AblationRow(NamedTuple):
    """A row of Table 1.

    Attributes:
        title: as printed in the paper.
        mean_iou: benchmark -> mIoU in percent.
    """

    title: str
    mean_iou: dict[str, float]


def published_numbers(benchmark: str, protocol: str, short_side: int) -> dict[str, dict[str, float]]:
    """Return the paper's numbers for a benchmark; ours by the same formulas are under ``paper`` in metrics.json.

    Args:
        benchmark: key of a benchmark.
        protocol: of the evaluation; the paper has numbers for ``PUBLISHED_PROTOCOL`` only.
        short_side: of the centre crops, in pixels.
    Returns:
        Method ("clip", "sclip" or "cliptrase") -> metric -> percent; empty if the paper has no numbers.
    """
    if protocol != PUBLISHED_PROTOCOL:
        return {}
    tables = _read_tables()
    row = tables["short_side"].get(str(short_side), {}).get(benchmark, {})
    return {method: dict(zip(tables["metrics"], numbers, strict=True)) for method, numbers in row.items()}


def published_benchmarks() -> list[str]:
    """Return the keys of the benchmarks that have published numbers."""
    return list(_read_tables()["short_side"]["224"])


def published_source() -> str:
    """Return the source of ``published_numbers`` and the model that they were measured with."""
    return _read_tables()["source"]


def published_ablation() -> dict[str, AblationRow]:
    """Return Table 1: name of a method -> its row, in the paper's order.

    The method of each row is inferred from its text and numbers. The paper does not say whether the first row, 67.77 on
    VOC20 where Table 3 has 41.88 for CLIP, uses clusters.
    """
    table = _read_tables()["ablation"]
    return {
        method: AblationRow(title, dict(zip(table["benchmarks"], numbers, strict=True)))
        for method, (title, *numbers) in table["rows"].items()
    }


def ablation_source() -> str:
    """Return the source of ``published_ablation``."""
    return _read_tables()["ablation"]["source"]


@cache
def _read_tables() -> dict[str, Any]:
    return json.loads((Path(__file__).parent / "published.json").read_text(encoding="utf-8"))
