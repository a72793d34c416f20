from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from cliptrase_d2.utils.interruption import Interrupted, clean_end


@pytest.fixture(autouse=True)
def handlers_as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_with_one_line_and_its_code(
    number: signal.Signals, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt as stop:
            raise Interrupted("3 of 4 are done") from stop

    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as end, clean_end("Go on so."):
        work()
    assert end.value.code == code
    assert capsys.readouterr().err == "interrupted. 3 of 4 are done. Go on so.\n"
    assert signal.getsignal(number) is before


def test_where_nothing_is_known_nothing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), clean_end():
        raise KeyboardInterrupt
    assert capsys.readouterr().err == "interrupted.\n"


def test_other_ends_are_as_they_were() -> None:
    with pytest.raises(ValueError, match="a number"), clean_end():
        raise ValueError("a number")
    with clean_end():
        pass


def _torn_library() -> None:
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        raise ValueError("unexpected pos 64 vs 0")


def _dropped_and_then_an_error() -> None:
    """As Python does with what is raised while it deletes an object."""
    with suppress(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
    raise ValueError("a process that was reading ended")


def _dying_readers() -> None:
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        os.kill(os.getpid(), signal.SIGCHLD)


@pytest.mark.parametrize("work", [_torn_library, _dropped_and_then_an_error, _dying_readers])
def test_an_interruption_is_one_whatever_comes_after_it(
    work: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def as_pytorch_does(*_: object) -> None:
        raise RuntimeError("DataLoader worker (pid 12) is killed by signal: Terminated. ")

    signal.signal(signal.SIGCHLD, as_pytorch_does)
    with pytest.raises(SystemExit) as end, clean_end():
        work()
    assert end.value.code == 143
    assert capsys.readouterr().err == "interrupted.\n"


def test_what_a_shell_starts_in_the_background_has_no_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with clean_end():
        os.kill(os.getpid(), signal.SIGINT)
        went_on = True
    assert went_on
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
