"""How a preparation ends that does not come to its end."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cliptrase_d2.data.prepare.command import Options, run
from cliptrase_d2.utils.errors import InputError, WriteError


def ended(patch: pytest.MonkeyPatch, root: Path, prepare: Callable[[Options], None]) -> object:
    """Exit code or last line of a script."""
    patch.setattr(sys, "argv", ["prepare.py", str(root)])
    with pytest.raises(SystemExit) as end:
        run("Prepare.", prepare, ["voc20"])
    return end.value.code


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    code: int,
) -> None:
    assert ended(monkeypatch, tmp_path, lambda _: os.kill(os.getpid(), number)) == code
    assert capsys.readouterr().err == "interrupted. The same command goes on from here.\n"


def test_a_full_disk_is_named_with_the_way_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare(_: Options) -> None:
        raise WriteError.of("a.png", OSError(28, "No space left on device"))

    said = str(ended(monkeypatch, tmp_path, prepare))
    assert said.startswith("error: a.png: cannot be written (No space left on device)")
    assert said.endswith("The same command goes on from here.")


def test_what_the_user_must_mend_first_is_all_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare(_: Options) -> None:
        raise InputError("a.zip", "broken", "Download it again.", allowed="whole")

    assert ended(monkeypatch, tmp_path, prepare) == "error: a.zip: broken. Allowed: whole. Download it again."
