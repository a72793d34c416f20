"""The benchmark: times of every stage, imposed masks, table and report."""

import argparse
import json
import sys
from pathlib import Path

import pytest

from cliptrase_d2.utils.profiling import listeners
from tests.clip.tiny import register_tiny
from tools import benchmark, profiling


@pytest.fixture
def args(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """Return the options of a short run with the tiny model."""
    words = ["--model", register_tiny(tmp_path), "--sizes", "64", "96", "--classes", "5", "--repeats", "2"]
    output = ["--device", "cpu", "--masks", "4", "--output", str(tmp_path / "out" / "numbers.json")]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *words, *output])
    return benchmark.parse_arguments()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("batch", [1, 2])
def test_every_stage_has_its_time(args: argparse.Namespace, batch: int, precision: str) -> None:
    args.batch, args.precision = batch, precision
    row = benchmark.measure(benchmark.build(args), args, 96, 5)
    times = row["milliseconds_per_image"]
    assert set(times) == {"encode_image", "whole", *profiling.STAGES}
    assert min(times.values()) > 0
    # Medians of two rounds are means, which add up. The whole includes work outside the stages.
    assert sum(times[stage] for stage in profiling.STAGES) <= times["whole"]
    assert row["images_per_second"] == pytest.approx(1000 / times["whole"])
    assert row["whole_over_encode_image"] > 0
    assert (row["size"], row["classes"]) == (96, 5)


def test_measuring_does_not_change_the_model(args: argparse.Namespace) -> None:
    model = benchmark.build(args)
    source = model.mask_source
    benchmark.measure(model, args, 64, 5)
    assert model.mask_source is source
    assert not listeners


def test_the_imposed_masks_reach_the_result(args: argparse.Namespace) -> None:
    model = benchmark.build(args)
    masks = []
    model.register_forward_hook(lambda module, args, outputs: masks.extend(len(out["pred_logits"]) for out in outputs))
    benchmark.measure(model, args, 96, 5)
    assert set(masks) == {4}


def test_a_per_pixel_method_has_no_correlation(args: argparse.Namespace) -> None:
    args.method = "maskclip"
    times = benchmark.measure(benchmark.build(args), args, 96, 5)["milliseconds_per_image"]
    assert "clustering" not in times
    assert times["correlation"] < times["image tower"]


@pytest.mark.parametrize(
    ("grid", "count"), [((6, 6), 4), ((14, 14), 20), ((21, 21), 20), ((4, 4), 1), ((3, 3), 9), ((5, 10), 6)]
)
def test_rectangles_cover_the_grid(grid: tuple[int, int], count: int) -> None:
    labels = profiling.make_rectangles(grid, count)
    assert labels.shape == (1, grid[0] * grid[1])
    values = labels.unique().tolist()
    assert values == list(range(count))
    for label in values:
        inside = labels.view(grid) == label
        assert inside.sum() == inside.any(0).sum() * inside.any(1).sum()


def test_the_table_has_a_row_for_every_measurement(args: argparse.Namespace) -> None:
    times = dict.fromkeys(("encode_image", *profiling.STAGES, "whole"), 12.34)
    row = {"size": 96, "classes": 5, "milliseconds_per_image": times, "images_per_second": 81.04}
    row |= {"whole_over_encode_image": 1.0567, "peak_megabytes": {"whole": 12.6, "encode_image": None}}
    head, _, *body = benchmark.table([row, {**row, "size": 128}]).splitlines()
    assert all(stage in head for stage in profiling.STAGES)
    assert [line.split()[0] for line in body] == ["96", "128"]
    assert body[0].split()[1:3] == ["5", "12.3"]
    assert body[0].split()[-4:] == ["1.057", "81.04", "13", "-"]


def test_main_prints_the_table_and_writes_the_numbers(
    args: argparse.Namespace, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark.main()
    printed = capsys.readouterr().out
    report = json.loads(args.output.read_text())
    assert [row["size"] for row in report["rows"]] == [64, 96]
    assert report["settings"]["model"] == args.model
    assert "torch" in report["versions"]
    assert benchmark.table(report["rows"]) in printed
    assert "random weights, 4 imposed masks" in printed
