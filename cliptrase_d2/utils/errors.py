"""Errors caused by a user's input or by a disk."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager


class InputError(ValueError):
    """An input cannot be used.

    The message says where the fault is, what was found there, and what to do.

    Args:
        where: file, configuration key or argument.
        got: what was found there.
        fix: what to do about it, as a sentence.
        allowed: the accepted values, where there is a list of them.
    """

    def __init__(self, where: object, got: object, fix: str, allowed: object = None):
        super().__init__(where, got, fix, allowed)  # keeps the error picklable across worker processes
        self.where, self.got, self.fix, self.allowed = where, got, fix, allowed

    def __str__(self) -> str:
        choices = "" if self.allowed is None else f"Allowed: {self.allowed}. "
        return f"{self.where}: {self.got}. {choices}{self.fix}"


class WriteError(InputError, OSError):
    """A file could not be written. It is an ``OSError`` too, for callers that can continue without the file."""

    @classmethod
    def of(cls, where: object, error: OSError) -> WriteError:
        """Describe an error of the operating system.

        Args:
            where: the file, or the key or argument that names its folder.
            error: the error.
        """
        got = f"cannot be written ({error.strerror or error})"
        return cls(where, got, "Free some space or choose another place. Existing files were not changed.")


def check_choice(where: object, value: object, choices: Iterable[str]) -> None:
    """Raise unless a value is one of the accepted ones.

    Args:
        where: argument or configuration key.
        value: to check.
        choices: the accepted values.
    Raises:
        InputError: it is not.
    """
    choices = list(choices)
    if value not in choices:
        raise InputError(where, repr(value), "Choose one of these.", allowed=" or ".join(map(repr, choices)))


def check_range(name: str, value: object, is_valid: bool, allowed: str) -> None:
    """Raise unless a setting is valid.

    Raises:
        InputError: it is not.
    """
    if not is_valid:
        raise InputError(name, repr(value), "Change the setting.", allowed=allowed)


def suggest(name: object, names: Iterable[str], otherwise: str = "Check the spelling.") -> str:
    """Return a fix for an unknown name: up to three similar names in any case, or ``otherwise`` if there are none."""
    lower, by_lower_case = str(name).lower(), {known.lower(): known for known in names}
    close = [lower] if lower in by_lower_case else difflib.get_close_matches(lower, by_lower_case, n=3)
    return f"Did you mean {' or '.join(repr(by_lower_case[match]) for match in close)}?" if close else otherwise


def first_line(error: Exception) -> str:
    """Return the start of an error's message, or its type if there is no message."""
    return (str(error) or type(error).__name__).splitlines()[0][:160]


@contextmanager
def name_arguments(keys: Mapping[str, str]) -> Iterator[None]:
    """Name the configuration key, in place of the argument, in any ``InputError`` of the block.

    Args:
        keys: the configuration key of each argument.
    Raises:
        InputError: the same error, of the same type, with the key as ``where``.
    """
    try:
        yield
    except InputError as error:
        key = keys.get(str(error.where))
        if key is None:
            raise
        raise type(error)(key, error.got, error.fix, error.allowed) from None


def error_chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, then the errors during whose handling it was raised, latest first.

    After an interruption inside a library, the library may raise an error of its own.
    """
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__context__
