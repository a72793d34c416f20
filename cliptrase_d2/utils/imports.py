"""Import of many modules in less time."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused_collection() -> Iterator[None]:
    """Pause the garbage collector while modules are imported, and exempt them from later collections.

    Imports make millions of objects that stay. The collector would search them again and again.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def hidden_module(name: str) -> Iterator[None]:
    """Let imports of a module fail, as if it were not installed, unless it is imported already.

    It saves the time of an optional import inside another package.

    Args:
        name: of the module.
    """
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # Python's own mark of a module that cannot be imported
    try:
        yield
    finally:
        del sys.modules[name]
