from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from cliptrase_d2.evaluation import progress as module
from cliptrase_d2.evaluation.counts import Counts, total
from cliptrase_d2.evaluation.progress import Progress, ProgressWriter
from cliptrase_d2.utils.errors import WriteError
from tests.faults import room_for


@pytest.fixture
def progress(tmp_path: Path) -> Progress:
    return Progress(tmp_path / "progress", "abc", num_records=6, num_classes=2)


def counts(images: int, *skipped: str) -> Counts:
    confusion = torch.tensor([[images, 1], [0, 2]])
    return Counts(confusion, images, ["dark.jpg"], [{"file": name, "reason": "broken"} for name in skipped])


def write(writer: ProgressWriter, indices: list[int], counted: Counts) -> None:
    writer.done(np.array(indices), counted)
    writer.flush()


def test_shares_of_all_processes_and_generations_are_summed(progress: Progress) -> None:
    write(progress.writer(1, 0), [0, 2], counts(2))
    write(progress.writer(1, 1), [1], counts(0, "1.jpg"))
    write(progress.writer(progress.next_generation(), 0), [5], counts(1))
    done, counted = progress.read()
    assert done.tolist() == [True, True, True, False, False, True]
    assert torch.equal(counted.confusion, torch.tensor([[3, 3], [0, 6]]))
    assert (counted.images, counted.without_valid_label) == (3, ["dark.jpg"] * 3)
    assert counted.skipped == [{"file": "1.jpg", "reason": "broken"}]
    assert progress.next_generation() == 3


def test_nothing_was_done(progress: Progress) -> None:
    done, counted = progress.read()
    assert not done.any()
    assert counted.images == 0
    assert progress.next_generation() == 1
    progress.clear()


def test_each_flush_replaces_the_one_before(progress: Progress) -> None:
    writer = progress.writer(1, 0)
    write(writer, [0, 1], counts(2))
    write(writer, [2, 3], counts(4))
    done, counted = progress.read()
    assert done.tolist() == [True] * 4 + [False] * 2
    assert counted.images == 4
    assert len(list(progress.folder.iterdir())) == 1


@pytest.mark.parametrize(("pause", "is_written"), [(4.9, False), (5.0, True)])
def test_progress_is_written_every_few_seconds(
    progress: Progress, monkeypatch: pytest.MonkeyPatch, pause: float, is_written: bool
) -> None:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    writer = progress.writer(1, 0)
    now[0] += pause
    writer.done(np.array([0]), counts(1))
    assert progress.folder.exists() == is_written


def test_nothing_done_is_not_written(progress: Progress) -> None:
    progress.writer(1, 0).flush()
    assert not progress.folder.exists()


def test_what_is_counted_after_the_last_note_is_not_written(progress: Progress) -> None:
    """As where a run is stopped in the middle of a batch, which will be done again."""
    writer, counted = progress.writer(1, 0), counts(2)
    writer.done(np.array([0, 2]), counted)
    counted.add(counts(1, "5.jpg"))
    writer.flush()
    done, found = progress.read()
    assert done.tolist() == [True, False, True, False, False, False]
    assert (found.images, found.skipped, found.without_valid_label) == (2, [], ["dark.jpg"])
    assert torch.equal(found.confusion, counts(2).confusion)


def test_a_disk_without_room_keeps_what_was_written_before(progress: Progress) -> None:
    writer = progress.writer(1, 0)
    write(writer, [0, 2], counts(2))
    with room_for(100), pytest.raises(WriteError, match=r"0001-0000\.npz: cannot be written .*Free some space"):
        write(writer, [1], counts(3))
    assert progress.read()[0].sum() == 2
    assert len(list(progress.folder.iterdir())) == 1


def _other_evaluation(progress: Progress) -> None:
    write(Progress(progress.folder, "other", 6, 2).writer(1, 1), [1], counts(1))


def _one_record_twice(progress: Progress) -> None:
    write(progress.writer(1, 1), [0, 1], counts(2))


def _cut_short(progress: Progress) -> None:
    write(progress.writer(1, 1), [1], counts(1))
    path = progress.folder / "0001-0001.npz"
    path.write_bytes(path.read_bytes()[:-40])


def _bits_fell_over(progress: Progress) -> None:
    write(progress.writer(1, 1), [1], counts(1))
    path = progress.folder / "0001-0001.npz"
    whole = bytearray(path.read_bytes())
    place = whole.index(b"indices.npy") + 40  # in what is compressed: zlib has its own kind of error
    whole[place : place + 20] = bytes(255 - byte for byte in whole[place : place + 20])
    path.write_bytes(whole)


def _fewer_counts_than_records(progress: Progress) -> None:
    write(progress.writer(1, 1), [1, 2], counts(1))


def _empty_file(progress: Progress) -> None:
    (progress.folder / "0002-0000.npz").touch()


@pytest.mark.parametrize(
    "spoil",
    [_other_evaluation, _one_record_twice, _cut_short, _bits_fell_over, _fewer_counts_than_records, _empty_file],
)
def test_what_does_not_fit_starts_anew_and_says_so(
    progress: Progress, spoil: object, caplog: pytest.LogCaptureFixture
) -> None:
    write(progress.writer(1, 0), [0], counts(1))
    spoil(progress)  # type: ignore[operator]
    with caplog.at_level(logging.WARNING):
        done, counted = progress.read()
    assert not done.any()
    assert (counted.images, int(counted.confusion.sum())) == (0, 0)
    assert "the evaluation starts anew" in caplog.text


def test_files_of_others_are_left_alone(progress: Progress) -> None:
    write(progress.writer(1, 0), [0], counts(1))
    (progress.folder / "notes.txt").write_text("mine")
    assert progress.read()[0].sum() == 1


def test_total_of_no_share_is_nothing() -> None:
    assert total([], 3).confusion.tolist() == [[0] * 3] * 3
