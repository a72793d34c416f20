"""The one kind of error that a user's input can cause, and what a disk can."""

from __future__ import annotations

from collections.abc import Iterator


class InputError(ValueError):
    """Something that the user gave cannot be used.

    The message always answers four questions: where, what came, what is allowed, what to do.

    Args:
        where: the file, key or argument at fault.
        came: what was found there.
        allowed: what is accepted in its place.
        fix: what the user can do about it.
    """

    def __init__(self, where: object, came: object, allowed: object, fix: str):
        super().__init__(where, came, allowed, fix)  # keeps the error picklable across worker processes
        self.where, self.came, self.allowed, self.fix = where, came, allowed, fix

    def __str__(self) -> str:
        return f"{self.where}: {self.came}. Allowed: {self.allowed}. {self.fix}"


class WriteError(InputError, OSError):
    """A file that could not be written; an ``OSError`` as well, for whoever goes on without the file."""

    @classmethod
    def of(cls, where: object, error: OSError) -> WriteError:
        """What the system said, as a sentence.

        Args:
            where: the file, or the key or argument that names its folder.
            error: of the system.
        """
        came = f"cannot be written ({error.strerror or error})"
        fix = "Make room or choose another place; what was there before is as it was."
        return cls(where, came, "a place that can be written, on a disk with room", fix)


def came_after(error: BaseException) -> Iterator[BaseException]:
    """An error, and those that were on their way when it arose, the latest first.

    Where something interrupts a library at any line, the library may end with an error of its own.
    """
    before: BaseException | None = error
    while before is not None:
        yield before
        before = before.__context__
