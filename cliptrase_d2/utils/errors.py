"""Errors that a user's input or a disk can cause."""

from __future__ import annotations

from collections.abc import Iterator


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
    """A file could not be written. It is an ``OSError`` too, for callers that can go on without the file."""

    @classmethod
    def of(cls, where: object, error: OSError) -> WriteError:
        """Describe an error of the operating system.

        Args:
            where: the file, or the key or argument that names its folder.
            error: the error.
        """
        got = f"cannot be written ({error.strerror or error})"
        return cls(where, got, "Free some space or choose another place. Existing files were not changed.")


def error_chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and the errors during whose handling it was raised, the latest first.

    An interruption can strike inside a library, which then may raise an error of its own.
    """
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__context__
