"""Named stages of a computation, shown by PyTorch's profiler and reported to a listener."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch.profiler import record_function

# Called with (name, True) before each stage and (name, False) after it.
listeners: list[Callable[[str, bool], None]] = []


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Mark a stage. Serves as a context manager and as a decorator: ``@stage("clustering")``."""
    with record_function(name):
        for listener in listeners:
            listener(name, True)
        try:
            yield
        finally:
            for listener in listeners:
                listener(name, False)
