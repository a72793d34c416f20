"""The program ``cliptrase``, and ``cliptrase doctor``."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cliptrase_d2.cli.main import COMMANDS, main
from cliptrase_d2.data.benchmarks import BENCHMARKS
from tests.cli.commands import fail, run
from tests.command_line import ROOT
from tests.data.test_inspection import write_pairs

SCENES_FOLDER = str(ROOT / "datasets" / "emoji_scenes" / "images" / "seen_00[01].webp")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
SCENES = str(ROOT / "datasets" / "emoji_scenes" / "dataset.yaml")


def write_ade150(root: Path, monkeypatch: pytest.MonkeyPatch, count: int, *labels: list[list[int]]) -> None:
    """Write a few pairs of ADE150, which is complete with ``count`` pairs."""
    spec = write_pairs(root, *labels)
    benchmark = BENCHMARKS["ade150"]
    assert spec.labels is not None
    for source, target in ((spec.images, benchmark.images), (spec.labels, benchmark.labels)):
        (root / target).parent.mkdir(parents=True)
        source.rename(root / target)
    monkeypatch.setitem(BENCHMARKS, "ade150", replace(benchmark, count=count))


def test_help_without_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    output = capsys.readouterr().out
    assert all(name in output for name in COMMANDS)
    assert run("--version") == 0
    assert capsys.readouterr().out.startswith("cliptrase_d2 ")


def test_help_does_not_import_pytorch() -> None:
    code = "import sys; from cliptrase_d2.cli import main; main.main([]); assert 'torch' not in sys.modules"
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr


@pytest.mark.parametrize(
    ("word", "similar"), [("segmnt", "'segment'"), ("Eval", "'eval'"), ("warmstart", "'warm-start'"), ("xyz", "--help")]
)
def test_unknown_commands_suggest_a_similar_one(word: str, similar: str) -> None:
    message = fail(word, "photo.jpg", "--classes", "sky")
    assert repr(word) in message
    assert similar in message


def test_quiet_prints_errors_only(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "cliptrase_d2", "segment", SCENES_FOLDER, "--classes", "grass", "--model", "emoji"]
    options = {"cwd": tmp_path, "capture_output": True, "text": True, "check": False, "env": ENVIRONMENT}
    process = subprocess.run([*argv, "--quiet"], **options)  # type: ignore[call-overload]
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")
    process = subprocess.run([*argv, "--quiet"], **options)  # type: ignore[call-overload]
    assert process.returncode == 1
    assert process.stderr.startswith("error: ")
    assert "Traceback" not in process.stderr
    process = subprocess.run([*argv, "--verbose"], **options)  # type: ignore[call-overload]
    assert "Traceback" in process.stderr
    assert process.stderr.splitlines()[-1].startswith("error: ")


def test_no_progress_bar_without_a_terminal(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "cliptrase_d2", "segment", SCENES_FOLDER, "--classes", "grass", "--model", "emoji"]
    process = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.count("SegmentationResult(") == 2


def test_a_reader_may_close_the_pipe() -> None:
    command = f"{sys.executable} -m cliptrase_d2 doctor | head -n 1; exit ${{PIPESTATUS[0]}}"
    process = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False, env=ENVIRONMENT
    )
    assert process.stdout.count("\n") == 1
    assert "Traceback" not in process.stderr
    assert "BrokenPipe" not in process.stderr
    assert process.returncode in (0, 141)  # 0 if the pipe took all before it was closed


def test_a_broken_pipe_to_another_process_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_to_send(_: object) -> int:
        raise BrokenPipeError

    monkeypatch.setattr("cliptrase_d2.cli.doctor.run", fail_to_send)
    with pytest.raises(BrokenPipeError):
        main(["doctor"])


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_names_commands_and_options(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    assert run("completion", shell) == 0
    script = capsys.readouterr().out
    assert all(name in script for name in COMMANDS)
    assert "--skip-existing" in script
    if shutil.which(shell):
        assert subprocess.run([shell, "-n"], input=script, text=True, check=False).returncode == 0


def test_completion_needs_shtab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert "pip install shtab" in fail("completion", "bash")


def test_doctor_needs_neither_network_nor_data(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("opened a connection"))
    assert run("doctor", "--root", str(tmp_path)) == 0
    output = capsys.readouterr().out
    for name in ("Installation", "torch", "Weights", "emoji-clip", "hdbscan"):
        assert name in output
    for key, benchmark in BENCHMARKS.items():
        (line,) = (line for line in output.splitlines() if line.split()[:1] == [key])
        assert f"missing    0 of {benchmark.count:,}" in line
        assert benchmark.name in line
    assert output.count("python datasets/prepare_voc.py") == 1


@pytest.mark.parametrize(
    ("count", "label", "code", "messages"),
    [
        (2, 149, 0, ["ready      2 of 2", "2 of 150 classes occur; missing: building, sky, floor, tree, ceiling, ..."]),
        (3, 200, 1, ["incomplete 2 of 3", "1.png: ", "python datasets/prepare_ade20k_150.py "]),
    ],
    ids=["complete", "incomplete and damaged"],
)
def test_deep_check_of_a_benchmark(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, label: int,
    code: int, messages: list[str],
) -> None:  # fmt: skip
    write_ade150(tmp_path, monkeypatch, count, [[0, 255]], [[label, 0]])
    assert run("doctor", "--root", str(tmp_path), "--deep", "--workers", "1", "ade150") == code
    output = capsys.readouterr().out
    assert all(message in output for message in messages)


def test_only_deep_checks_open_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_ade150(tmp_path, monkeypatch, 1, [[200, 0]])
    assert run("doctor", "--root", str(tmp_path), "ade150") == 0
    assert run("doctor", "--root", str(tmp_path), "--deep") == 1


def test_custom_data_set(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write_pairs(tmp_path, [[0]], *([[7]] for _ in range(6)))
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\nimages: images\nlabels: labels\nclasses: [sky, tree]\n")
    assert run("doctor", "--dataset", str(file), "--workers", "1") == 1
    output = capsys.readouterr().out
    assert "1.png: " in output
    assert "and 1 more" in output
    assert run("doctor", "--dataset", SCENES, "--workers", "1") == 0


def test_proposal_for_a_folder(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "voc20").mkdir()
    write_pairs(tmp_path / "voc20", [[0, 1]], [[1, 255]])
    monkeypatch.chdir(tmp_path)
    assert run("doctor", "./voc20", "--workers", "1") == 0
    output = capsys.readouterr().out
    assert "\nlabels: labels\n" in output
    assert "2 of 2 classes occur" in output
    assert run("doctor", "voc20", "--root", str(tmp_path)) == 1  # the benchmark
    assert "BENCHMARK" in fail("doctor", "voc20", "./voc20")
    assert "voc20/images" not in capsys.readouterr().out


def test_proposal_is_written_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write_pairs(tmp_path, [[0, 1]], [[1, 2]])
    file = tmp_path / "sets/mine.yaml"
    words = ("doctor", str(tmp_path), "--workers", "1", "--write", str(file))
    assert run(*words) == 0
    written = file.read_text()
    assert "\nimages: ../images\n" in written
    assert run("doctor", "--dataset", str(file), "--workers", "1") == 0
    assert str(file) in fail(*words)
    assert run(*words, "--overwrite") == 0
    assert file.read_text() == written
    assert "3 of 3 classes occur" in capsys.readouterr().out


def test_check_of_a_proposal_reports_problems(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write_pairs(tmp_path, [[0, 1]], [[1, 2]], [[0, 0]])
    (tmp_path / "labels/1.png").write_bytes(b"broken")
    assert run("doctor", str(tmp_path), "--workers", "1") == 1
    assert "labels/1.png: unreadable" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no/such/folder"], "no such folder"),
        (["{file}"], "--dataset"),
        (["--write", "d.yaml"], "--write"),
        (["{empty}", "--dataset", "d.yaml"], "--dataset"),
        (["{empty}"], "no files"),
    ],
)
def test_folder_that_cannot_be_proposed(tmp_path: Path, words: list[str], message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "mine.yaml").touch()
    places = {"file": tmp_path / "mine.yaml", "empty": tmp_path / "empty"}
    assert message in fail("doctor", *(word.format(**places) for word in words))


def test_unknown_benchmark() -> None:
    assert "BENCHMARK: 'voc'. Allowed: 'coco_object' or " in fail("doctor", "voc")


def test_the_package_runs_as_a_module_and_requested_benchmarks_must_be_complete(tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "cliptrase_d2", "doctor", "--root", str(tmp_path), "voc20"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.returncode == 1
    assert "prepare_voc.py" in process.stdout
    assert "Installation" not in process.stdout
    assert "ade150" not in process.stdout
    assert process.stderr == ""
