"""Class names with their synonyms, as read from the user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.user_files import CONTROL_CHARACTER, read_text

BACKGROUND_NAME = "background"
SYNONYM_SEPARATOR = ";"


@dataclass(frozen=True)
class Vocabulary:
    """An ordered list of classes with their synonyms.

    Each synonym competes for a pixel separately; the score of a class is that of its best synonym. Background prompts
    are the synonyms of one additional class, the last.

    Attributes:
        classes: C class names in evaluation order. A class is named after its first synonym.
        words: the synonyms of each class, at least one.
    """

    classes: tuple[str, ...]
    words: tuple[tuple[str, ...], ...]

    @classmethod
    def parse(cls, classes: Sequence[str], background: Sequence[str] = (), where: object = "vocabulary") -> Vocabulary:
        """Parse class names, in which ``;`` separates synonyms, and optional background prompts.

        Args:
            classes: names in evaluation order. Surrounding white space is removed.
            background: prompts of a last class named "background"; empty for no background class.
            where: source of the names, for error messages: a file or an argument.
        Raises:
            InputError: there are no classes, or a name is empty or appears twice.
        """
        for names in (classes, background):
            if isinstance(names, str):
                raise InputError(where, f"one string, {names[:60]!r}", "Put the names in a list.")
        words = [_split_synonyms(name, where) for name in classes]
        if not words:
            raise InputError(where, "no classes", "Add at least one class name.")
        class_names = [synonyms[0] for synonyms in words]
        if background:
            class_names.append(BACKGROUND_NAME)
            # The published lists repeat some background prompts. A repeated prompt has no effect.
            words.append(tuple(dict.fromkeys(word for name in background for word in _split_synonyms(name, where))))
        _check_unique(class_names, words, where)
        return cls(tuple(class_names), tuple(words))

    @cached_property
    def prompts(self) -> tuple[str, ...]:
        """All R synonyms, class by class."""
        return tuple(word for words in self.words for word in words)

    @cached_property
    def class_index(self) -> tuple[int, ...]:
        """The class of each of the R synonyms, 0 to C-1."""
        return tuple(index for index, words in enumerate(self.words) for _ in words)


def read_class_file(path: Path) -> tuple[str, ...]:
    """Read a text file with one class per line. `Vocabulary.parse` splits the synonyms.

    Raises:
        InputError: the file does not exist, or has an empty line before the last class.
    """
    lines = [line.strip() for line in read_text(path).rstrip().splitlines()]
    if "" in lines:
        # An empty line is not skipped: every class after it would get another index.
        raise InputError(path, f"line {lines.index('') + 1} is empty", "Remove the line or write a class name in it.")
    return tuple(lines)


def _split_synonyms(name: object, where: object) -> tuple[str, ...]:
    words = tuple(word.strip() for word in name.split(SYNONYM_SEPARATOR)) if isinstance(name, str) else ()
    if any(map(CONTROL_CHARACTER.search, words)):
        got = f"the class name {str(name)[:60]!r} contains a control character"
        raise InputError(where, got, "Remove tabs and other control characters from the list.")
    if not words or not all(words):
        fix = "Give every class and every synonym a name."
        if not isinstance(name, str):
            fix = "Write names as text. In YAML, quote numbers and words such as yes and no."
        raise InputError(where, f"invalid class name {name!r}", fix)
    return words


def _check_unique(names: list[str], words: list[tuple[str, ...]], where: object) -> None:
    owners: dict[str, str] = {}
    for name, synonyms in zip(names, words, strict=True):
        for word in synonyms:
            if word in owners:
                got = f"{word!r} appears twice (in class {owners[word]!r} and in class {name!r})"
                raise InputError(where, got, "Remove one, or join the classes with ';' to make them synonyms.")
            owners[word] = name
    if len(set(names)) != len(names):
        got = f"a class named {BACKGROUND_NAME!r} in addition to background prompts"
        raise InputError(where, got, "Remove the class or the background prompts.")
