from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cliptrase_d2.data.images import read_label
from cliptrase_d2.data.labels import LabelRule
from cliptrase_d2.data.prepare.convert import Job, convert_all, relabel_all, same_file, write_label
from cliptrase_d2.utils.atomic_files import remove_unfinished
from cliptrase_d2.utils.errors import InputError, WriteError
from tests.faults import kill_at_file, room_for


def _double(source: Path, target: Path) -> None:
    value = source.read_text()
    if value == "bad":
        raise InputError(source, "bad", "Correct it.", allowed="a number")
    target.write_text(str(2 * int(value)))


def jobs(folder: Path, values: list[str]) -> list[Job]:
    found = []
    for index, value in enumerate(values):
        source, target = folder / f"{index}.in", folder / f"{index}.out"
        source.write_text(value)
        found.append(Job((target,), (source, target)))
    return found


@pytest.mark.parametrize(("workers", "count"), [(1, 3), (2, 200)])
def test_every_job_is_done_once(tmp_path: Path, workers: int, count: int) -> None:
    todo = jobs(tmp_path, [str(index) for index in range(count)])
    assert convert_all(todo, _double, workers, "doubling") == count
    assert [int(job.targets[0].read_text()) for job in todo] == [2 * index for index in range(count)]
    assert convert_all(todo, _double, workers, "doubling") == 0


def test_what_is_there_stays(tmp_path: Path) -> None:
    todo = jobs(tmp_path, ["1", "2"])
    todo[0].targets[0].write_text("old")
    assert convert_all(todo, _double, 1, "doubling") == 1
    assert todo[0].targets[0].read_text() == "old"


@pytest.mark.parametrize(("workers", "count"), [(1, 3), (2, 200)])
def test_bad_file_is_named(tmp_path: Path, workers: int, count: int) -> None:
    todo = jobs(tmp_path, ["1"] * (count - 1) + ["bad"])
    with pytest.raises(InputError, match=rf"{count - 1}\.in: bad"):
        convert_all(todo, _double, workers, "doubling")
    assert todo[0].targets[0].read_text() == "2"


@pytest.mark.parametrize(("name", "labels"), [("a.png", [[0, 255]]), ("a.tif", [[0, 255], [846, 65535]])])
def test_labels_come_back_as_they_were(tmp_path: Path, name: str, labels: list[list[int]]) -> None:
    write_label(tmp_path / "new" / name, np.array(labels))
    assert read_label(tmp_path / "new" / name).tolist() == labels


def test_same_file_under_a_second_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("once")
    same_file(tmp_path / "a", tmp_path / "x" / "b")
    same_file(tmp_path / "a", tmp_path / "x" / "b")
    assert (tmp_path / "x" / "b").read_text() == "once"

    def refused(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refused)
    same_file(tmp_path / "a", tmp_path / "c")
    assert (tmp_path / "c").read_text() == "once"


@pytest.mark.parametrize("value", [1, 3, 200])
def test_files_become_class_indices_and_an_unknown_value_is_refused(tmp_path: Path, value: int) -> None:
    rule = LabelRule(1, 255, {0: 255, 2: 0})
    good, bad, made = (tmp_path / name for name in ("good.png", "bad.png", "made.png"))
    write_label(good, np.array([[0, 2, 255]]))
    write_label(bad, np.array([[0, value]]))
    relabel_all([(good, made)], rule, workers=1)
    assert read_label(made).tolist() == [[255, 0, 255]]
    with pytest.raises(InputError, match=rf"bad\.png: the label values {value}\b.*Allowed: the values of the official"):
        relabel_all([(good, made), (bad, tmp_path / "no.png")], rule, workers=1)
    assert not (tmp_path / "no.png").exists()


def test_a_conversion_that_was_killed_goes_on(tmp_path: Path) -> None:
    files = [(tmp_path / f"{index}.png", tmp_path / "made" / f"{index}.png") for index in range(5)]
    for index, (source, _) in enumerate(files):
        write_label(source, np.array([[index, 255]]))
    rule = LabelRule(5, 255)
    kill_at_file(3, lambda: relabel_all(files, rule, workers=1))
    made = sorted((tmp_path / "made").iterdir())
    assert [path.name for path in made[1:]] == ["0.png", "1.png"]
    assert made[0].suffix == ".tmp"
    before = [path.stat().st_mtime_ns for path in made[1:]]
    remove_unfinished(tmp_path)  # with which every script begins
    relabel_all(files, rule, workers=1)
    assert [read_label(target).tolist() for _, target in files] == [[[index, 255]] for index in range(5)]
    assert [path.stat().st_mtime_ns for path in made[1:]] == before
    assert len(list((tmp_path / "made").iterdir())) == 5


def test_a_disk_without_room_names_the_label_file(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 65536, (100, 100))
    for name in ("a.png", "a.tif"):
        with room_for(1000), pytest.raises(WriteError, match=rf"{name}: cannot be written"):
            write_label(tmp_path / name, noise % 256)
    assert not list(tmp_path.iterdir())
