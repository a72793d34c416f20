"""What the paper reports on its nine benchmarks, at 224 and at 336 pixels (supplement, Tables 3 and 4)."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

PUBLISHED_PROTOCOL = "center_crop"


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


@cache
def _tables() -> dict[str, Any]:
    return json.loads((Path(__file__).parent / "published.json").read_text(encoding="utf-8"))
