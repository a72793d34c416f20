"""Class names as a user writes them, checked and split into prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.user_files import CONTROL_CHARACTER

BACKGROUND_NAME = "background"
SYNONYM_SEPARATOR = ";"


@dataclass(frozen=True)
class Vocabulary:
    """An ordered list of classes, each with the words that describe it.

    Several words of one class compete for a pixel on their own, and the best of them speaks for the
    class. Background prompts are just that: the words of one more class, the last.

    Attributes:
        classes: C class names in evaluation order; the first synonym is the name of its class.
        words: for every class its synonyms, at least one.
    """

    classes: tuple[str, ...]
    words: tuple[tuple[str, ...], ...]

    @classmethod
    def parse(cls, classes: Sequence[str], background: Sequence[str] = (), where: object = "vocabulary") -> Vocabulary:
        """Read class names, with ``a;b`` as synonyms, and optional background prompts.

        Args:
            classes: names in evaluation order; white space around a name is dropped.
            background: words of a last class named "background"; empty for no such class.
            where: file or argument that the names come from, for error messages.
        Raises:
            InputError: no class at all, an empty name, or a word given twice.
        """
        for given in (classes, background):
            if isinstance(given, str):
                got = f"one string, {given[:60]!r}"
                raise InputError(where, got, "Put the names in a list.", allowed="a list of class names")
        words = [_split(name, where) for name in classes]
        if not words:
            raise InputError(where, "no class", "Name the classes to look for.", allowed="at least one class name")
        names = [synonyms[0] for synonyms in words]
        if background:
            names.append(BACKGROUND_NAME)
            # The published lists repeat background prompts; a prompt said twice changes nothing.
            words.append(tuple(dict.fromkeys(word for name in background for word in _split(name, where))))
        _refuse_duplicates(names, words, where)
        return cls(tuple(names), tuple(words))

    @cached_property
    def prompts(self) -> tuple[str, ...]:
        """All R words, class after class."""
        return tuple(word for words in self.words for word in words)

    @cached_property
    def class_index(self) -> tuple[int, ...]:
        """The class, 0 to C-1, of each of the R words."""
        return tuple(index for index, words in enumerate(self.words) for _ in words)


def _split(name: object, where: object) -> tuple[str, ...]:
    words = tuple(word.strip() for word in name.split(SYNONYM_SEPARATOR)) if isinstance(name, str) else ()
    # White space around a name is dropped by now; a tab inside it is often that of a table.
    if any(map(CONTROL_CHARACTER.search, words)):
        got = f"the class name {str(name)[:60]!r} with a control character"
        raise InputError(where, got, "Remove tabs and the like from the list.", allowed="letters, digits and signs")
    if not words or not all(words):
        raise InputError(
            where,
            f"the class name {name!r}",
            "Give every class a name (quote it in YAML if it reads as a number or as yes/no).",
            allowed=f"text, synonyms separated by {SYNONYM_SEPARATOR!r}, none of them empty",
        )
    return words


def _refuse_duplicates(names: list[str], words: list[tuple[str, ...]], where: object) -> None:
    seen: dict[str, str] = {}
    for name, group in zip(names, words, strict=True):
        for word in group:
            if word in seen:
                raise InputError(
                    where,
                    f"the word {word!r} twice (in class {seen[word]!r} and in class {name!r})",
                    "Remove one of them, or make them synonyms of one class with ';'.",
                    allowed="every word once, for a pixel cannot choose between equals",
                )
            seen[word] = name
    if len(set(names)) != len(names):
        raise InputError(
            where,
            f"a class named {BACKGROUND_NAME!r} besides background prompts",
            "Remove the class, or give its words as background prompts.",
            allowed="one or the other",
        )
