"""Errors and signals during a preparation."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cliptrase_d2.data.prepare.command import Options, run
from cliptrase_d2.utils.errors import InputError, WriteError


def run_script(monkeypatch: pytest.MonkeyPatch, root: Path, prepare: Callable[[Options], None]) -> object:
    """Run a script. Return its exit code or last line."""
    monkeypatch.setattr(sys, "argv", ["prepare.py", str(root)])
    with pytest.raises(SystemExit) as caught:
        run("Prepare.", prepare, ["voc20"])
    return caught.value.code


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_ends_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    code: int,
) -> None:
    assert run_script(monkeypatch, tmp_path, lambda _: os.kill(os.getpid(), number)) == code
    (message,) = capsys.readouterr().err.splitlines()
    assert "same command again" in message


@pytest.mark.parametrize(
    ("error", "can_continue"),
    [
        (WriteError.of("a.png", OSError(28, "No space left on device")), True),
        (OSError(5, "Input/output error"), True),
        (InputError("a.zip", "broken", "Download it again."), False),
    ],
)
def test_error_ends_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, can_continue: bool
) -> None:
    def prepare(_: Options) -> None:
        raise error

    message = str(run_script(monkeypatch, tmp_path, prepare))
    assert message.startswith("error: ")
    assert str(error) in message
    assert message.endswith("Run the same command again to continue.") == can_continue
