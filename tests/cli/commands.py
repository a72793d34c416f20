"""Run commands in this process."""

from __future__ import annotations

import pytest

from cliptrase_d2.cli.main import main


def run(*argv: str) -> object:
    """Run ``cliptrase`` and return its exit code, or its error message."""
    with pytest.raises(SystemExit) as end:
        main(argv)
    return end.value.code


def fail(*argv: str) -> str:
    """Run a command that must end with an input error, and return the message."""
    message = str(run(*argv))
    assert message.startswith("error: ")
    return message
