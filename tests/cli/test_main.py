"""The command ``cliptrase``, and what its doctor says."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cliptrase_d2.cli.main import COMMANDS, main
from cliptrase_d2.data.benchmarks import BENCHMARKS, Benchmark
from tests.command_line import ROOT
from tests.data.test_inspection import write_pairs

SCENES = str(ROOT / "datasets" / "emoji_scenes" / "dataset.yaml")


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[object, str]:
    """Exit code or last line, and what is printed."""
    try:
        main(words)
    except SystemExit as end:
        return end.code, capsys.readouterr().out
    return 0, capsys.readouterr().out


def ade150(root: Path, monkeypatch: pytest.MonkeyPatch, count: int, *labels: list[list[int]]) -> None:
    """An ADE150 of a few pairs, of which ``count`` would be all."""
    spec = write_pairs(root, *labels)
    benchmark = BENCHMARKS["ade150"]
    assert spec.labels is not None
    for source, target in ((spec.images, benchmark.images), (spec.labels, benchmark.labels)):
        (root / target).parent.mkdir(parents=True)
        source.rename(root / target)
    monkeypatch.setitem(BENCHMARKS, "ade150", _with_count(count))


def _with_count(count: int) -> Benchmark:
    return replace(BENCHMARKS["ade150"], count=count)


def test_without_a_command_there_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = call(capsys)
    assert code == 0
    assert all(name in said for name in COMMANDS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "--version")[1].startswith("cliptrase_d2 ")


def test_help_does_not_wait_for_pytorch() -> None:
    code = "import sys; from cliptrase_d2.cli import main; main.main([]); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_doctor_needs_no_network_and_no_data(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("the doctor opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refused)
    code, said = call(capsys, "doctor", "--root", str(tmp_path))
    assert code == 0
    for words in ("Installation", "torch", "Weights", "emoji-clip", "part of this package", "hdbscan"):
        assert words in said
    for key, benchmark in BENCHMARKS.items():
        (line,) = (line for line in said.splitlines() if line.split()[:1] == [key])
        assert f"missing    0 of {benchmark.count:,}" in line
        assert benchmark.name in line
    assert said.count("python datasets/prepare_voc.py") == 1


def test_named_benchmark_must_be_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, said = call(capsys, "doctor", "--root", str(tmp_path), "voc20")
    assert code == 1
    assert "Installation" not in said
    assert "ade150" not in said


def test_complete_benchmark(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ade150(tmp_path, monkeypatch, 2, [[0, 255]], [[149, 0]])
    code, said = call(capsys, "doctor", "--root", str(tmp_path), "--deep", "--workers", "1", "ade150")
    assert code == 0
    assert "ready      2 of 2" in said
    assert "every file of 2 images was opened, no problem" in said
    assert "2 of 150 classes occur; not: building, sky, floor, tree, ceiling, ..." in said


def test_incomplete_and_damaged_benchmark(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ade150(tmp_path, monkeypatch, 3, [[0, 255]], [[200, 0]])
    code, said = call(capsys, "doctor", "--root", str(tmp_path), "--deep", "--workers", "1", "ade150")
    assert code == 1
    assert "incomplete 2 of 3" in said
    assert "1.png: the label values 200" in said
    assert f"python datasets/prepare_ade20k_150.py {tmp_path}" in said


def test_damage_is_found_only_where_files_are_opened(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ade150(tmp_path, monkeypatch, 1, [[200, 0]])
    assert call(capsys, "doctor", "--root", str(tmp_path), "ade150")[0] == 0
    assert call(capsys, "doctor", "--root", str(tmp_path), "--deep")[0] == 1


def test_data_set_of_ones_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write_pairs(tmp_path, [[0]], [[7]])
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\nimages: images\nlabels: labels\nclasses: [sky, tree]\n")
    code, said = call(capsys, "doctor", "--dataset", str(file), "--workers", "1")
    assert code == 1
    assert "1.png: the label values 7. Allowed: 0..1 or the ignore label 255" in said
    assert call(capsys, "doctor", "--dataset", SCENES, "--workers", "1")[0] == 0


def test_unknown_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    code, _ = call(capsys, "doctor", "voc")
    assert str(code).startswith("error: cliptrase doctor: the unknown benchmark 'voc'. Allowed: coco_object, ")


def test_package_is_the_command_too(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cliptrase_d2", "doctor", "--root", str(tmp_path), "voc20"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "prepare_voc.py" in done.stdout
    assert done.stderr == ""
