from pathlib import Path

import numpy as np
import pytest

from cliptrase_d2.data.label_files import read_label
from cliptrase_d2.data.labels import LabelRule
from cliptrase_d2.data.prepare.convert import Job, convert_all, link_file, relabel_all, write_label
from cliptrase_d2.utils.errors import InputError


def _double(source: Path, target: Path) -> None:
    value = source.read_text()
    if value == "bad":
        raise InputError(source, "bad", "Correct it.")
    target.write_text(str(2 * int(value)))


def make_jobs(folder: Path, values: list[str]) -> list[Job]:
    jobs = []
    for index, value in enumerate(values):
        source, target = folder / f"{index}.in", folder / f"{index}.out"
        source.write_text(value)
        jobs.append(Job((target,), (source, target)))
    return jobs


@pytest.mark.parametrize(("workers", "count"), [(1, 3), (2, 200)])
def test_every_job_is_done_once(tmp_path: Path, workers: int, count: int) -> None:
    jobs = make_jobs(tmp_path, [str(index) for index in range(count)])
    jobs[0].targets[0].write_text("0")  # exists
    assert convert_all(jobs, _double, workers, "doubling") == count - 1
    assert [int(job.targets[0].read_text()) for job in jobs] == [2 * index for index in range(count)]
    assert convert_all(jobs, _double, workers, "doubling") == 0


@pytest.mark.parametrize(("workers", "count"), [(1, 3), (2, 200)])
def test_error_of_a_job_is_raised(tmp_path: Path, workers: int, count: int) -> None:
    jobs = make_jobs(tmp_path, ["1"] * (count - 1) + ["bad"])
    with pytest.raises(InputError, match=rf"{count - 1}\.in: bad"):
        convert_all(jobs, _double, workers, "doubling")
    assert jobs[0].targets[0].read_text() == "2"


def test_link_or_copy_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("once")
    for _ in range(2):
        link_file(tmp_path / "a", tmp_path / "x" / "b")
    assert (tmp_path / "x" / "b").samefile(tmp_path / "a")

    def fail(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", fail)
    link_file(tmp_path / "a", tmp_path / "c")
    assert (tmp_path / "c").read_text() == "once"


@pytest.mark.parametrize("value", [1, 3, 200])
def test_label_files_become_class_indices_or_are_rejected(tmp_path: Path, value: int) -> None:
    rule = LabelRule(1, 255, {0: 255, 2: 0})
    good, bad, target = (tmp_path / name for name in ("good.png", "bad.png", "target.png"))
    write_label(good, np.array([[0, 2, 255]]))
    write_label(bad, np.array([[0, value]]))
    relabel_all([(good, target)], rule, workers=1)
    assert read_label(target).tolist() == [[255, 0, 255]]
    with pytest.raises(InputError, match=rf"bad\.png: unknown label values {value}\b.*official"):
        relabel_all([(good, target), (bad, tmp_path / "no.png")], rule, workers=1)
    assert not (tmp_path / "no.png").exists()
