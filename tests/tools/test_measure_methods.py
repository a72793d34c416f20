"""The cost of the methods, and the file of measured numbers."""

import argparse
import csv
import sys
from pathlib import Path

import pytest

from cliptrase_d2.methods.published import MEASURED, read_published_methods
from tests.clip.tiny import register_tiny
from tools import make_results_table, measure_methods
from tools.measure_methods import format_csv, read_emoji_numbers

PAGE = make_results_table.FILE.read_text(encoding="utf-8")


@pytest.fixture
def args(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """Return the options of a short run with the tiny model."""
    words = ["--model", register_tiny(tmp_path), "--size", "64", "--classes", "3", "--batch", "2", "--masks", "4"]
    methods = ["--rounds", "2", "--methods", "maskclip", "cliptrase", "textregion"]
    monkeypatch.setattr(sys, "argv", ["measure_methods.py", *words, *methods])
    return measure_methods.parse_arguments()


def test_every_method_and_encode_image_are_timed_in_every_round(args: argparse.Namespace) -> None:
    seconds = measure_methods.measure(args)
    assert list(seconds) == ["encode_image", "maskclip", "cliptrase", "textregion"]
    assert all(len(values) == 2 and min(values) > 0 for values in seconds.values())


def test_costs_are_medians_of_the_rounds() -> None:
    seconds = {"encode_image": [1.0, 2.0, 4.0], "clip": [2.0, 3.0, 4.0]}
    assert measure_methods.summarize(seconds, batch=2) == {"clip": (1500.0, 1.5)}  # the ratios are 2, 1.5 and 1


def test_a_run_keeps_what_it_did_not_measure() -> None:
    emoji = {name: {"emoji_pacc": "50.0", "emoji_miou": "20.0"} for name in read_published_methods()}
    first = format_csv({"clip": (12.4, 1.004), "gem": (20.0, 1.3)}, "cpu", emoji, "")
    second = format_csv({"clip": (1.234, 2.0)}, "cuda", emoji, first)
    rows = {row["method"]: row for row in csv.DictReader(second.splitlines())}
    assert list(rows) == list(read_published_methods())
    assert (rows["clip"]["cpu_ms"], rows["clip"]["cpu_ratio"], rows["clip"]["gpu_ms"]) == ("12", "1.00", "1.23")
    assert (rows["gem"]["cpu_ratio"], rows["gem"]["gpu_ms"], rows["gem"]["emoji_miou"]) == ("1.30", "", "20.0")


def test_main_prints_the_table_and_writes_the_file(
    args: argparse.Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measure_methods, "MEASURED", tmp_path / "measured.csv")
    measure_methods.main()
    assert "maskclip" in capsys.readouterr().out
    rows = {row["method"]: row for row in csv.DictReader((tmp_path / "measured.csv").read_text().splitlines())}
    assert rows["maskclip"]["cpu_ratio"]
    assert not rows["clip"]["cpu_ratio"]


def test_the_stored_file_has_the_numbers_of_the_results() -> None:
    emoji = read_emoji_numbers(PAGE)
    for row in csv.DictReader(MEASURED.read_text(encoding="utf-8").splitlines()):
        expected = emoji.get(row["method"], dict.fromkeys(("emoji_pacc", "emoji_miou", "emoji_seed2_slide_miou"), ""))
        assert {name: row[name] for name in expected} == expected
