"""The mode of modules: training or evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol


class HasMode(Protocol):
    """A module, or another object with the mode of one."""

    training: bool

    def train(self, mode: bool = True, /) -> Any:
        """Change the mode."""


@contextmanager
def evaluation_mode(model: HasMode) -> Iterator[None]:
    """Put a model into evaluation mode, and restore its mode at the end, also after an error."""
    was_training = model.training
    model.train(False)
    try:
        yield
    finally:
        model.train(was_training)
