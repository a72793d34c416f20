"""Serves `detectron2.config.configurable`: build a class or call a function from plain arguments or from a config."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from fvcore.common.config import CfgNode


def configurable(init_func: Callable[..., None] | None = None, *, from_config: Callable[..., Any] | None = None) -> Any:
    """Decorate an `__init__` whose class has a `from_config` class method, or any function given `from_config`.

    Called with a config first (or as `cfg=`), `from_config(cfg, ...)` gives the arguments, and keywords that it does
    not take overwrite them. Called without one, nothing changes.
    """
    if init_func is not None:
        return _configurable_init(init_func)
    if from_config is None:
        return configurable

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if _has_config(args, kwargs):
                return function(**_explicit_arguments(from_config, args, kwargs))
            return function(*args, **kwargs)

        wrapped.from_config = from_config  # type: ignore[attr-defined]
        return wrapped

    return decorate


def _configurable_init(init_func: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(init_func)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> None:
        from_config = getattr(type(self), "from_config", None)
        if from_config is None:
            raise AttributeError(f"{type(self).__name__} needs a 'from_config' classmethod, for it is @configurable.")
        if not inspect.ismethod(from_config):
            raise TypeError(f"{type(self).__name__}.from_config must be a classmethod.")
        if _has_config(args, kwargs):
            init_func(self, **_explicit_arguments(from_config, args, kwargs))
        else:
            init_func(self, *args, **kwargs)

    return wrapped


def _has_config(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return bool(args and isinstance(args[0], CfgNode)) or isinstance(kwargs.get("cfg"), CfgNode)


def _explicit_arguments(
    from_config: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    parameters = inspect.signature(from_config).parameters
    if next(iter(parameters), None) != "cfg":
        raise TypeError(f"{getattr(from_config, '__qualname__', from_config)} must take 'cfg' as the first argument.")
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters.values()):
        return dict(from_config(*args, **kwargs))
    taken = {name: value for name, value in kwargs.items() if name in parameters}
    overwritten = {name: value for name, value in kwargs.items() if name not in parameters}
    return {**from_config(*args, **taken), **overwritten}
