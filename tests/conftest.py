"""What all tests share: the reference material, where it lies beside the repository, and repeatable chance."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # tests side by side: a thread each, for them and for what they start
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from hypothesis import settings

# A shell's background jobs ignore Ctrl-C, which some tests send to themselves and to what they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED = Path(__file__).resolve().parents[1] / ".." / "shared"

# The same examples on every run and machine; a slow machine is no failure.
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference material beside the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"the reference material, {SHARED}, is not on this machine")
    return SHARED.resolve()


@pytest.fixture(scope="session")
def reference(shared: Path) -> Path:
    """The published implementation's outputs on rebuildable weights."""
    folder = shared / "data" / "reference"
    if not folder.is_dir():
        pytest.skip(f"the reference outputs, {folder}, are not on this machine")
    return folder
