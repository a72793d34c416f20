"""Files spoilt at random are read or refused, and the tool that says so would notice if they were not."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cliptrase_d2.utils.errors import InputError
from experiments import fuzz
from experiments.fuzz import ACCEPTED, FAILED, REFUSED, Fuzzer
from experiments.fuzzing.mutate import bytes_at_random
from experiments.fuzzing.subjects import Subject, subjects

CASES = 25


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def fuzzer(kinds: list[Subject], work: Path, **settings: float) -> Fuzzer:
    return Fuzzer(kinds, work, work.parent / "failed", seed=0, limit=settings.get("limit", 30.0))


@pytest.mark.filterwarnings("ignore")  # Pillow's, of metadata
def test_spoilt_files_of_every_kind_are_read_or_refused(work: Path) -> None:
    kinds = subjects(work)
    run = fuzzer(kinds, work)
    run.run(seconds=0, cases=CASES)
    failed = "\n".join(path.read_text() for path in sorted((work.parent / "failed").glob("*.txt")))
    assert not failed
    assert all(counts.total() == CASES for counts in run.counts.values())
    assert sum(counts[REFUSED] for counts in run.counts.values()) > CASES
    assert sum(counts[ACCEPTED] for counts in run.counts.values()) > CASES


def test_every_sound_file_is_read(work: Path) -> None:
    for kind in subjects(work):
        for content in kind.sound:
            path = work / (kind.file or f"case{kind.suffix}")
            path.write_bytes(content)
            assert kind.read(path) is not None, kind.name


def one(read: Callable[[Path], object], *, checksums: bool = False) -> Subject:
    return Subject("one", ".bin", [bytes(range(50))], read, (bytes_at_random,), checksums)


def _refuse(path: Path) -> object:
    raise InputError(path, "bad", "Mend it.", allowed="good")


def _fall_over(path: Path) -> object:
    raise IndexError("deep inside")


@pytest.mark.parametrize(
    ("read", "outcome"),
    [
        (lambda path: 1, ACCEPTED),
        (lambda path: None, REFUSED),
        (_refuse, REFUSED),
        (_fall_over, FAILED),
        (lambda path: time.sleep(60), FAILED),
    ],
    ids=["read", "no value", "refused", "another error", "a hang"],
)
def test_what_becomes_of_a_file(work: Path, read: Callable[[Path], object], outcome: str) -> None:
    assert fuzzer([one(read)], work, limit=0.2).try_one(one(read), 3) == outcome
    kept = sorted(path.name for path in (work.parent / "failed").glob("*"))
    assert kept == (["one_0_3.bin", "one_0_3.txt"] if outcome == FAILED else [])


def test_a_changed_value_in_spite_of_checksums_is_a_failure(work: Path) -> None:
    kind = one(lambda path: {"bytes": list(path.read_bytes())}, checksums=True)
    run = fuzzer([kind], work)
    run.run(seconds=0, cases=5)
    assert run.counts["one"][FAILED] == 5
    assert "in spite of its checksums" in (work.parent / "failed" / "one_0_0.txt").read_text()


def test_a_seed_gives_the_same_files_again(work: Path) -> None:
    seen: list[bytes] = []
    kind = one(lambda path: seen.append(path.read_bytes()))
    for _ in range(2):
        fuzzer([kind], work).run(seconds=0, cases=10)
    assert seen[:10] == seen[10:]
    assert len(set(seen)) == 10


@pytest.mark.parametrize(("fails", "code"), [(False, 0), (True, 1)])
def test_the_command_ends_with_1_if_anything_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fails: bool, code: int
) -> None:
    monkeypatch.setattr(fuzz, "subjects", lambda folder: [one(_fall_over if fails else _refuse)])
    monkeypatch.setattr(fuzz.logging, "disable", lambda level: None)
    words = ["fuzz.py", "--cases", "3", "--output", str(tmp_path / "failed")]
    monkeypatch.setattr(sys, "argv", words)
    assert fuzz.main() == code
    assert ("3 failures" in capsys.readouterr().out) == fails


def test_an_unknown_kind_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "subjects", lambda folder: [one(_refuse)])
    monkeypatch.setattr(sys, "argv", ["fuzz.py", "--kinds", "imagse"])
    monkeypatch.setattr(fuzz.logging, "disable", lambda level: None)
    with pytest.raises(SystemExit, match=r"--kinds: imagse. Allowed: one"):
        fuzz.main()
