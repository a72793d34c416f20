from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from cliptrase_d2.utils.interruption import Interrupted, exit_on_interrupt


@pytest.fixture(autouse=True)
def _restore_handlers() -> Iterator[None]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_with_one_line_and_its_exit_code(
    number: signal.Signals, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt as stop:
            raise Interrupted("3 of 4 are done") from stop

    handler = signal.getsignal(number)
    with pytest.raises(SystemExit) as end, exit_on_interrupt("Run it again."):
        work()
    assert end.value.code == code
    assert capsys.readouterr().err == "interrupted. 3 of 4 are done. Run it again.\n"
    assert signal.getsignal(number) is handler


def test_other_errors_pass_unchanged() -> None:
    with pytest.raises(ValueError, match="a number"), exit_on_interrupt():
        raise ValueError("a number")
    with exit_on_interrupt():
        pass


def _interrupt() -> None:
    raise KeyboardInterrupt


def _interrupt_a_library_that_raises_its_own_error() -> None:
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        raise ValueError("unexpected pos 64 vs 0")


def _drop_the_interruption_before_an_error() -> None:
    with suppress(KeyboardInterrupt):  # as Python does while it deletes an object
        os.kill(os.getpid(), signal.SIGTERM)
    raise ValueError("a worker process died")


def _interrupt_worker_processes_as_well() -> None:
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        os.kill(os.getpid(), signal.SIGCHLD)


@pytest.mark.parametrize(
    ("work", "code"),
    [
        (_interrupt, 130),
        (_interrupt_a_library_that_raises_its_own_error, 143),
        (_drop_the_interruption_before_an_error, 143),
        (_interrupt_worker_processes_as_well, 143),
    ],
)
def test_an_interruption_is_reported_whatever_follows_it(
    work: Callable[[], None], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def raise_as_pytorch_does(*_: object) -> None:
        raise RuntimeError("DataLoader worker (pid 12) is killed by signal: Terminated. ")

    signal.signal(signal.SIGCHLD, raise_as_pytorch_does)
    with pytest.raises(SystemExit) as end, exit_on_interrupt():
        work()
    assert end.value.code == code
    assert capsys.readouterr().err == "interrupted.\n"


def test_a_background_job_of_a_shell_ignores_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with exit_on_interrupt():
        os.kill(os.getpid(), signal.SIGINT)
        finished = True
    assert finished
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
