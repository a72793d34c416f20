"""Serves `detectron2.evaluation.DatasetEvaluator`."""

from __future__ import annotations

from typing import Any


class DatasetEvaluator:
    """Collects what it needs of each batch, then says how good the whole was: {task: {metric: value}}."""

    def reset(self) -> None: ...
    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None: ...
    def evaluate(self) -> dict[str, Any] | None: ...
