from __future__ import annotations

import os
import signal

import pytest

from cliptrase_d2.interruption import Interrupted, clean_end


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_with_one_line_and_its_code(
    number: signal.Signals, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt as stop:
            raise Interrupted("3 of 4 are done") from stop

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as end, clean_end("Go on so."):
        work()
    assert end.value.code == code
    assert capsys.readouterr().err == "interrupted. 3 of 4 are done. Go on so.\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_where_nothing_is_known_nothing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), clean_end():
        raise KeyboardInterrupt
    assert capsys.readouterr().err == "interrupted.\n"


def test_other_ends_are_as_they_were() -> None:
    with pytest.raises(ValueError, match="a number"), clean_end():
        raise ValueError("a number")
    with clean_end():
        pass
