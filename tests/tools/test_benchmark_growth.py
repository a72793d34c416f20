"""The benchmark of growth: scenes, tables and picture."""

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from tools import benchmark_growth


@pytest.mark.parametrize(("grid", "count"), [((14, 14), 20), ((5, 10), 6), ((4, 4), 1)])
def test_a_scene_has_its_rectangles_as_clusters(grid: tuple[int, int], count: int) -> None:
    features, rows, labels = benchmark_growth.make_scene(grid, count, "cpu")
    assert features.patches.shape[1] == labels.shape[1] == grid[0] * grid[1]
    assert 1 <= int(labels.max()) + 1 <= count
    same = labels[0][:, None] == labels[0]
    assert rows[0][same].min() > rows[0][~same].max() if count > 1 else bool(same.all())


def test_main_prints_three_tables_and_draws_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark_growth, "PIXELS", (64, 128))
    monkeypatch.setattr(benchmark_growth, "GRID", (4, 8))
    words = ["--sides", "4", "6", "--classes", "5", "9", "--masks", "2", "4", "--repeats", "1", "--device", "cpu"]
    files = ["--output", str(tmp_path / "growth.json"), "--picture", str(tmp_path / "growth.png")]
    monkeypatch.setattr(sys, "argv", ["benchmark_growth.py", *words, *files])
    benchmark_growth.main()
    report = json.loads((tmp_path / "growth.json").read_text())
    assert [row["patches"] for row in report["patches"]] == [16, 36]
    assert [row["classes"] for row in report["classes"]] == [5, 9]
    assert set(report["patches"][0]["seconds"]) == {"correlation", "clustering", "masks", "classification"}
    assert all(seconds > 0 for row in report["masks"] for seconds in row["seconds"].values())
    printed = capsys.readouterr().out
    assert all(benchmark_growth.table(report[size]) in printed for size in ("patches", "classes", "masks"))
    with Image.open(tmp_path / "growth.png") as picture:
        assert min(picture.size) > 300
    assert not torch.is_inference_mode_enabled()
