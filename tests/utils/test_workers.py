from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from cliptrase_d2.data.loader import build_evaluation_loader
from cliptrase_d2.utils import workers
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.workers import explain_worker_deaths

KILLED = "DataLoader worker (pid 12) is killed by signal: Killed. "
REASONS = {
    KILLED: r"\(killed by signal: Killed\)",
    "DataLoader worker (pid 12) is killed by signal: Bus error. It is possible that dataloader's workers are out of "
    "shared memory. Please try to raise your shared memory limit.": r"\(killed by signal: Bus error\).*/dev/shm",
    "DataLoader worker (pid(s) 12, 13) exited unexpectedly": r"\(exited unexpectedly\)",
    "DataLoader worker (pid 12) exited unexpectedly with exit code 1. Details are lost due to multiprocessing.": (
        r"\(exited unexpectedly with exit code 1\)"
    ),
}


@pytest.mark.parametrize("message", REASONS)
def test_every_message_of_pytorch_is_explained(message: str) -> None:
    with (
        pytest.raises(InputError, match=rf"NUM_WORKERS: .*the data set voc.*{REASONS[message]}"),
        explain_worker_deaths("the data set voc"),
    ):
        raise RuntimeError(message)


@pytest.mark.parametrize(
    ("error", "reason"),
    [(ConnectionResetError(104, "Connection reset by peer"), r"Connection reset"), (EOFError(), "batch is lost")],
)
def test_a_lost_batch_counts_as_a_death(monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str) -> None:
    monkeypatch.setattr(workers, "_REPORT_DELAY", 0.0)
    with pytest.raises(InputError, match=rf"scenes .*{reason}"), explain_worker_deaths("scenes"):
        raise error


def test_a_late_message_of_pytorch_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def report(_: float) -> None:
        raise RuntimeError(KILLED)

    monkeypatch.setattr(workers.time, "sleep", report)
    with pytest.raises(InputError, match=REASONS[KILLED]), explain_worker_deaths("scenes"):
        raise ConnectionResetError(104, "Connection reset by peer")


@pytest.mark.parametrize(
    ("first", "outcome"), [(RuntimeError(KILLED), InputError), (KeyboardInterrupt(), KeyboardInterrupt)]
)
def test_a_death_or_interruption_hidden_by_the_error_of_a_library_is_found(
    first: BaseException, outcome: type[BaseException]
) -> None:
    def save() -> None:
        try:
            raise first
        finally:  # as in torch.save, whose file is too short after a signal handler has ended the write
            raise RuntimeError("unexpected pos 64 vs 0")

    with pytest.raises(outcome), explain_worker_deaths("scenes"):
        save()


def test_other_errors_pass_unchanged() -> None:
    with pytest.raises(RuntimeError, match=r"^another$"), explain_worker_deaths("scenes"):
        raise RuntimeError("another")


def _kill_at_the_third(record: dict[str, Any]) -> dict[str, Any]:
    if record["file_name"] == "2.png":
        os.kill(os.getpid(), signal.SIGKILL)
    return record


def test_a_killed_loader_process_is_reported() -> None:
    records = [{"file_name": f"{index}.png"} for index in range(4)]
    loader = build_evaluation_loader(records, _kill_at_the_third, batch_size=1, num_workers=1, on_error="skip")
    with pytest.raises(InputError, match=r"^DATALOADER\.NUM_WORKERS: "), explain_worker_deaths("scenes"):
        list(loader)
