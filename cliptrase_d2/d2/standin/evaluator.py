"""Serves `detectron2.evaluation.DatasetEvaluator`."""

from __future__ import annotations

from typing import Any


class DatasetEvaluator:
    """Collects what it needs of each batch, then says how good the whole was."""

    def reset(self) -> None:
        """Begin a new evaluation."""

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Take in one batch: the model's inputs and its outputs, in the same order."""

    def evaluate(self) -> dict[str, Any] | None:
        """The results, {task: {metric: value}}, on the main process."""
