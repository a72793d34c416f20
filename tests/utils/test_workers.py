from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from cliptrase_d2.data.loader import build_evaluation_loader
from cliptrase_d2.utils import workers
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.workers import explain_worker_deaths

SAID = {
    "DataLoader worker (pid 12) is killed by signal: Killed. ": r"\(killed by signal: Killed\)",
    "DataLoader worker (pid 12) is killed by signal: Bus error. It is possible that dataloader's workers are out of "
    "shared memory. Please try to raise your shared memory limit.": r"\(killed by signal: Bus error\).*/dev/shm",
    "DataLoader worker (pid(s) 12, 13) exited unexpectedly": r"\(exited unexpectedly\)",
    "DataLoader worker (pid 12) exited unexpectedly with exit code 1. Details are lost due to multiprocessing.": (
        r"\(exited unexpectedly with exit code 1\)"
    ),
}


@pytest.mark.parametrize("said", SAID)
def test_what_pytorch_says_of_a_death_becomes_what_to_do(said: str) -> None:
    with pytest.raises(InputError, match=SAID[said]) as caught, explain_worker_deaths("the data set voc"):
        raise RuntimeError(said)
    assert "reading the data set voc" in str(caught.value)
    assert "0 reads in the one process" in str(caught.value)


@pytest.mark.parametrize(
    ("error", "said"),
    [(ConnectionResetError(104, "Connection reset by peer"), r"Connection reset"), (EOFError(), "its batch is lost")],
)
def test_a_batch_that_its_reader_can_no_longer_hand_over_is_a_death(
    monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    monkeypatch.setattr(workers, "_SOON", 0.0)
    with pytest.raises(InputError, match=f"reading scenes ended .*{said}"), explain_worker_deaths("scenes"):
        raise error


def test_what_pytorch_says_a_moment_later_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def tells(_: float) -> None:
        raise RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. ")

    monkeypatch.setattr(workers.time, "sleep", tells)
    with pytest.raises(InputError, match=r"\(killed by signal: Killed\)"), explain_worker_deaths("scenes"):
        raise ConnectionResetError(104, "Connection reset by peer")


def _save_while_one_dies() -> None:
    """As torch.save has it, which finds its file too short once a handler of signals has ended its writing."""
    try:
        raise RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. ")
    finally:
        raise RuntimeError("unexpected pos 64 vs 0")


def test_a_death_behind_the_error_of_a_library_is_told() -> None:
    with pytest.raises(InputError, match=r"killed by signal: Killed"), explain_worker_deaths("scenes"):
        _save_while_one_dies()


def _interrupted_while_one_dies() -> None:
    try:
        raise KeyboardInterrupt
    finally:
        _save_while_one_dies()


def test_a_death_after_an_interruption_is_an_interruption() -> None:
    with pytest.raises(KeyboardInterrupt), explain_worker_deaths("scenes"):
        _interrupted_while_one_dies()


def test_other_errors_come_through() -> None:
    with pytest.raises(RuntimeError, match=r"^of ours$"), explain_worker_deaths("the data set voc"):
        raise RuntimeError("of ours")


def _killed(record: dict[str, Any]) -> dict[str, Any]:
    if record["file_name"] == "2.png":
        os.kill(os.getpid(), signal.SIGKILL)
    return record


def test_a_reading_process_that_is_killed_ends_in_one_sentence() -> None:
    records = [{"file_name": f"{index}.png"} for index in range(4)]
    loader = build_evaluation_loader(records, _killed, batch_size=1, num_workers=1, on_error="skip")
    with pytest.raises(InputError, match=r"^DATALOADER\.NUM_WORKERS: a process"), explain_worker_deaths("scenes"):
        list(loader)
