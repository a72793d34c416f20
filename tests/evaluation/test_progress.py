import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cliptrase_d2.evaluation import progress as module
from cliptrase_d2.evaluation.confusion import Counts
from cliptrase_d2.evaluation.progress import Progress, ProgressWriter
from cliptrase_d2.utils.errors import WriteError
from tests.faults import limit_file_size


@pytest.fixture
def progress(tmp_path: Path) -> Progress:
    return Progress(tmp_path / "progress", "abc", num_records=6, num_classes=2)


def counts(images: int, *skipped: str) -> Counts:
    confusion = torch.tensor([[images, 1], [0, 2]])
    return Counts(confusion, images, ["dark.jpg"], [{"file": name, "reason": "broken"} for name in skipped])


def write(writer: ProgressWriter, indices: list[int], total: Counts) -> None:
    writer.done(np.array(indices), total)
    writer.flush()


def test_files_of_all_processes_and_generations_are_summed(progress: Progress) -> None:
    write(progress.writer(1, 0), [0, 2], counts(2))
    write(progress.writer(1, 1), [1], counts(0, "1.jpg"))
    write(progress.writer(progress.next_generation(), 0), [5], counts(1))
    (progress.folder / "notes.txt").write_text("another file")
    done, total = progress.read()
    assert done.tolist() == [True, True, True, False, False, True]
    assert torch.equal(total.confusion, torch.tensor([[3, 3], [0, 6]]))
    assert (total.images, total.without_valid_label) == (3, ["dark.jpg"] * 3)
    assert total.skipped == [{"file": "1.jpg", "reason": "broken"}]
    assert progress.next_generation() == 3


def test_counts_of_objects_are_summed(progress: Progress) -> None:
    objects = torch.arange(2 * 3 * 4).view(2, 3, 4)
    for rank, own in enumerate((objects, None, 10 * objects)):
        write(progress.writer(1, rank), [rank], Counts(torch.ones(2, 2, dtype=torch.int64), 1, objects=own))
    total = progress.read()[1].objects
    assert total is not None
    assert total.dtype == torch.int64
    assert torch.equal(total, 11 * objects)


def test_files_of_a_version_that_counted_no_objects_restart_the_evaluation(progress: Progress) -> None:
    old = counts(1)
    del old.objects
    write(progress.writer(1, 0), [0], old)
    assert not progress.read()[0].any()


def test_without_files_nothing_is_done(progress: Progress) -> None:
    progress.writer(1, 0).flush()
    assert not progress.folder.exists()
    done, total = progress.read()
    assert not done.any()
    assert (total.images, int(total.confusion.sum())) == (0, 0)
    assert progress.next_generation() == 1
    progress.clear()


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


def test_counts_of_an_interrupted_batch_are_not_written(progress: Progress) -> None:
    writer, total = progress.writer(1, 0), counts(2)
    writer.done(np.array([0, 2]), total)
    total.confusion += 1
    total.images += 1
    total.without_valid_label.append("5.jpg")
    total.skipped.append({"file": "5.jpg", "reason": "broken"})
    writer.flush()
    done, written = progress.read()
    assert done.tolist() == [True, False, True, False, False, False]
    assert (written.images, written.skipped, written.without_valid_label) == (2, [], ["dark.jpg"])
    assert torch.equal(written.confusion, counts(2).confusion)


def test_each_flush_replaces_the_file_unless_the_disk_is_full(progress: Progress) -> None:
    writer = progress.writer(1, 0)
    write(writer, [0, 1], counts(2))
    write(writer, [2, 3], counts(4))
    with limit_file_size(100), pytest.raises(WriteError, match=r"0001-0000\.npz: "):
        write(writer, [4], counts(5))
    done, total = progress.read()
    assert done.tolist() == [True] * 4 + [False] * 2
    assert total.images == 4
    assert len(list(progress.folder.iterdir())) == 1


def _truncate(progress: Progress) -> None:
    write(progress.writer(1, 1), [1], counts(1))
    path = progress.folder / "0001-0001.npz"
    path.write_bytes(path.read_bytes()[:-40])


def _flip_bits(progress: Progress) -> None:
    write(progress.writer(1, 1), [1], counts(1))
    path = progress.folder / "0001-0001.npz"
    data = bytearray(path.read_bytes())
    start = data.index(b"indices.npy") + 40  # in the compressed part: zlib raises its own kind of error
    data[start : start + 20] = bytes(255 - byte for byte in data[start : start + 20])
    path.write_bytes(data)


FAULTS: dict[str, Callable[[Progress], None]] = {
    "another evaluation": lambda own: write(Progress(own.folder, "other", 6, 2).writer(1, 1), [1], counts(1)),
    "one record twice": lambda own: write(own.writer(1, 1), [0, 1], counts(2)),
    "fewer counts than records": lambda own: write(own.writer(1, 1), [1, 2], counts(1)),
    "empty": lambda own: (own.folder / "0002-0000.npz").touch(),
    "truncated": _truncate,
    "flipped bits": _flip_bits,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_unusable_file_restarts_the_evaluation_with_a_warning(
    progress: Progress, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    write(progress.writer(1, 0), [0], counts(1))
    FAULTS[fault](progress)
    with caplog.at_level(logging.WARNING):
        done, total = progress.read()
    assert not done.any()
    assert (total.images, int(total.confusion.sum())) == (0, 0)
    assert str(progress.folder) in caplog.text
