"""Reproducible random numbers, and fixtures for the reference material next to the repository."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # parallel tests: one thread each, and for the processes that they start
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from hypothesis import settings

# Some tests send Ctrl-C to themselves or to a child process; a shell's background jobs ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED = Path(__file__).resolve().parents[1] / ".." / "shared"

# The same examples on every run and machine; slowness is not a failure.
settings.register_profile("reproducible", derandomize=True, deadline=None, database=None)
settings.load_profile("reproducible")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference material next to the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"the reference material, {SHARED}, is not on this machine")
    return SHARED.resolve()


@pytest.fixture(scope="session")
def reference(shared: Path) -> Path:
    """The published implementation's outputs for reproducible weights."""
    folder = shared / "data" / "reference"
    if not folder.is_dir():
        pytest.skip(f"the reference outputs, {folder}, are not on this machine")
    return folder
