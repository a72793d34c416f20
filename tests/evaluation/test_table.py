from __future__ import annotations

import torch

from cliptrase_d2.evaluation.metrics import segmentation_metrics
from cliptrase_d2.evaluation.table import format_table


def test_numbers_and_classes_stand_in_rows() -> None:
    table = format_table(segmentation_metrics(torch.tensor([[3, 1], [0, 0]]), ["1e5", "tree"]))
    rows = {line.split()[0]: line.split()[1:] for line in table.splitlines() if line.strip()}
    assert rows["this"] == ["evaluation", "75.00", "75.00", "75.00", "75.00", "37.41", "37.50"]
    assert rows["paper's"] == ["formulas", "75.00", "37.41", "74.81", "74.81"]
    assert rows["1e5"] == ["75.00", "75.00", "4"]
    assert rows["tree"] == ["-", "-", "0"]


def test_nothing_measured() -> None:
    assert "-" in format_table(segmentation_metrics(torch.zeros(1, 1, dtype=torch.int64), ["a"]))
