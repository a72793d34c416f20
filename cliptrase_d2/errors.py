"""The one kind of error that a user's input can cause."""


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
