"""The fuzzer: its targets pass, and it detects every kind of failure."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cliptrase_d2.utils.errors import InputError
from experiments import fuzz
from experiments.fuzz import ACCEPTED, FAILED, REJECTED, Fuzzer
from experiments.fuzzing.targets import Target, build_targets
from tests import forked

CASES = 25


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def build_fuzzer(targets: list[Target], work: Path, limit: float = 30.0) -> Fuzzer:
    return Fuzzer(targets, work, work.parent / "failed", seed=0, limit=limit)


def build_target(read: Callable[[Path], object], *, has_checksums: bool = False) -> Target:
    return Target("one", ".bin", [bytes(range(50))], read, has_checksums=has_checksums)


def reject(path: Path) -> object:
    raise InputError(path, "bad", "Repair it.")


def fail(path: Path) -> object:
    raise IndexError("internal error")


@pytest.mark.filterwarnings("ignore")  # of Pillow, about metadata
def test_mutated_files_of_every_kind_are_accepted_or_rejected(work: Path) -> None:
    fuzzer = build_fuzzer(build_targets(work), work)
    fuzzer.run(seconds=0, cases=CASES)
    assert not "\n".join(path.read_text() for path in sorted((work.parent / "failed").glob("*.txt")))
    assert all(counts.total() == CASES for counts in fuzzer.counts.values())
    for outcome in (ACCEPTED, REJECTED):
        assert sum(counts[outcome] for counts in fuzzer.counts.values()) > CASES


def test_every_valid_file_is_accepted(work: Path) -> None:
    for target in build_targets(work):
        for content in target.corpus:
            path = work / (target.file or f"case{target.suffix}")
            path.write_bytes(content)
            assert target.read(path) is not None, target.name


@pytest.mark.parametrize(
    ("read", "outcome"),
    [
        (lambda path: 1, ACCEPTED),
        (lambda path: None, REJECTED),
        (reject, REJECTED),
        (fail, FAILED),
        (lambda path: time.sleep(60), FAILED),
    ],
    ids=["value", "no value", "input error", "other error", "hang"],
)
def test_outcome_of_a_file(work: Path, read: Callable[[Path], object], outcome: str) -> None:
    target = build_target(read)
    assert build_fuzzer([target], work, limit=0.2).run_case(target, 3) == outcome
    files = sorted(path.name for path in (work.parent / "failed").glob("*"))
    assert files == (["one_0_3.bin", "one_0_3.txt"] if outcome == FAILED else [])


def test_changed_value_is_a_failure_with_checksums(work: Path) -> None:
    target = build_target(lambda path: {"bytes": list(path.read_bytes())}, has_checksums=True)
    fuzzer = build_fuzzer([target], work)
    fuzzer.run(seconds=0, cases=5)
    assert fuzzer.counts["one"][FAILED] == 5
    assert "WrongResultError" in (work.parent / "failed" / "one_0_0.txt").read_text()


def test_seed_determines_the_files(work: Path) -> None:
    contents: list[bytes] = []
    target = build_target(lambda path: contents.append(path.read_bytes()))
    for _ in range(2):
        build_fuzzer([target], work).run(seconds=0, cases=10)
    assert contents[:10] == contents[10:]
    assert len(set(contents)) == 10


@pytest.mark.parametrize(("read", "code"), [(reject, 0), (fail, 1)])
def test_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    read: Callable[[Path], object], code: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(fuzz, "build_targets", lambda folder: [build_target(read)])
    monkeypatch.setattr(fuzz.logging, "disable", lambda level: None)
    monkeypatch.setattr(sys, "argv", ["fuzz.py", "--cases", "3", "--output", str(tmp_path / "failed")])
    assert fuzz.main() == code
    assert ("3 failures" in capsys.readouterr().out) == bool(code)
    monkeypatch.setattr(sys, "argv", ["fuzz.py", "--kinds", "imagse"])
    with pytest.raises(SystemExit, match=r"--kinds: .*imagse.*one"):
        fuzz.main()


@pytest.mark.slow
@pytest.mark.parametrize(
    "script",
    [
        "experiments/fuzz.py",
        "tools/benchmark.py",
        "tools/benchmark_evaluation.py",
        "tools/benchmark_growth.py",
        "tools/measure_methods.py",
        "tools/emoji_clip/train.py",
    ],
)
def test_script_with_own_modules_starts_in_any_folder(tmp_path: Path, script: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, str(forked.ROOT / script), "--help"]
    assert subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True).returncode == 0
