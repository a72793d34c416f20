"""Options of a method: the arguments of its constructor, checked."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from cliptrase_d2.utils.errors import InputError

_Method = TypeVar("_Method")
_NAMES = {bool: "True or False", int: "a whole number", float: "a number", str: "a text", NoneType: "None"}


def construct(name: str, method: type[_Method], options: Mapping[str, object]) -> _Method:
    """Build a method with options.

    Args:
        name: of the method, for errors.
        method: its class.
        options: arguments of its constructor by name. An option with the value None is left at its default.
    Raises:
        InputError: an option is unknown, or its value has a wrong type or is out of range.
    """
    options = {key: value for key, value in options.items() if value is not None}
    known = list(inspect.signature(method).parameters)
    hints = get_type_hints(method.__init__)
    for key, value in options.items():
        if key not in known:
            fix = "Use one of these." if known else "Remove it: this method has no options."
            got = f"the method {name!r} has no option {key!r}"
            raise InputError("method_options", got, fix, allowed=", ".join(known) or None)
        if key in hints and not _fits(value, hints[key]):
            got = f"{key} {value!r} ({type(value).__name__}) for the method {name!r}"
            raise InputError("method_options", got, "Change the option.", allowed=_describe(hints[key]))
    try:
        return method(**options)
    except InputError as error:
        got = f"{error.where} {error.got} for the method {name!r}"
        raise InputError("method_options", got, "Change the option.", allowed=error.allowed) from None


def _fits(value: object, hint: Any) -> bool:
    """Return whether a value has a type. Types that options do not usually have are not checked."""
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, part) for part in get_args(hint))
    if get_origin(hint) is Literal:
        return any(type(value) is type(choice) and value == choice for choice in get_args(hint))
    if hint is float:
        return type(value) in (int, float)
    return type(value) is hint if hint in _NAMES else True


def _describe(hint: Any) -> str:
    """Return the values of a type in words."""
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_describe(part) for part in get_args(hint) if part is not NoneType)
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    return _NAMES.get(hint, str(hint))
