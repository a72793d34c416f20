"""Class names with their synonyms, as read from the user."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from cliptrase_d2.ready_vocabularies import MARK, get_ready_words
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.user_files import CONTROL_CHARACTER

BACKGROUND_NAME = "background"
SYNONYM_SEPARATOR = ";"
# Names in which ";" separates synonyms; or the synonyms of each name, one or several.
ClassNames: TypeAlias = Iterable[str] | Mapping[str, str | Iterable[str] | None]
# Prompts, among them "@name" for those of a ready list; or the name of one ready list.
BackgroundPrompts: TypeAlias = Iterable[str] | str


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
    def parse(
        cls,
        classes: ClassNames,
        background: BackgroundPrompts = (),
        where: object = "vocabulary",
        *,
        allow_commas: bool = False,
        allow_shared: bool = False,
    ) -> Vocabulary:
        """Parse class names, in which ``;`` separates synonyms, and optional background prompts.

        Args:
            classes: names in evaluation order, or a dict with the synonyms of each name, such as
                ``{"person": ["man", "woman"], "sky": []}``. Surrounding white space is removed.
            background: prompts of a last class named "background"; empty for no background class. ``"voc"``, or
                ``"@voc"`` in a list, stands for a ready list, without the words of the classes.
            where: source of the names, for error messages: a file or an argument.
            allow_commas: accept names such as "building, edifice", which official class lists of data sets have.
            allow_shared: accept background prompts that are also words of classes, as in published lists.
        Raises:
            InputError: there are no classes, a name is empty, has a stray comma or appears twice, or a ready list is
                unknown.
        """
        words = [_split_synonyms(name, where, allow_commas) for name in list_classes(classes, where)]
        if not words:
            raise InputError(where, "no classes", "Add at least one class name.")
        class_names = [synonyms[0] for synonyms in words]
        if wrong := next((name for name in class_names if name.startswith(MARK)), None):
            got = f"the class name {wrong!r} starts with {MARK!r}, which marks a ready list of background prompts"
            raise InputError(where, got, "Name the classes, or move it to the background.")
        if prompts := list_background(background):
            class_names.append(BACKGROUND_NAME)
            words.append(_collect_background(prompts, words, where))
        _check_unique(class_names, words[:-1] if prompts and allow_shared else words, where)
        return cls(tuple(class_names), tuple(words))

    @cached_property
    def prompts(self) -> tuple[str, ...]:
        """All R synonyms, class by class."""
        return tuple(word for words in self.words for word in words)

    @cached_property
    def class_index(self) -> tuple[int, ...]:
        """The class of each of the R synonyms, 0 to C-1."""
        return tuple(index for index, words in enumerate(self.words) for _ in words)


def list_classes(classes: ClassNames, where: object) -> tuple[str, ...]:
    """Return class names as a tuple, with ";" between synonyms. `Vocabulary.parse` checks them.

    Raises:
        InputError: the names are not a list or a dict, or a dict has an entry that is not a text.
    """
    if isinstance(classes, str):
        raise InputError(where, f"one string, {classes[:60]!r}", "Put the names in a list.")
    if isinstance(classes, Set) or not isinstance(classes, Iterable):
        got = f"class names of the type {type(classes).__name__}, which has no order"
        raise InputError(where, got, "Put the names in a list.")
    if isinstance(classes, Mapping):
        return tuple(_join_synonyms(name, synonyms, where) for name, synonyms in classes.items())
    return tuple(classes)


def list_background(background: BackgroundPrompts) -> tuple[str, ...]:
    """Return background prompts as a tuple, in which the name of a ready list has a mark."""
    if isinstance(background, str):
        return (MARK + background.removeprefix(MARK),) if background else ()
    return tuple(background)


def _join_synonyms(name: object, synonyms: object, where: object) -> str:
    """Return an entry of a dict of classes as one text. The name is the first synonym, whether repeated or not."""
    if isinstance(synonyms, str) or synonyms is None:  # None is an empty entry in YAML
        synonyms = () if synonyms is None else (synonyms,)
    if not isinstance(synonyms, list | tuple):
        got = f"the synonyms of {name!r} have the type {type(synonyms).__name__}"
        raise InputError(where, got, "Put them in a list, which may be empty.")
    words = _split_synonyms(name, where, True)
    others = [word for synonym in synonyms for word in _split_synonyms(synonym, where, True)]
    return SYNONYM_SEPARATOR.join([*words, *(word for word in others if word not in words)])


def _collect_background(prompts: Iterable[str], words: Iterable[tuple[str, ...]], where: object) -> tuple[str, ...]:
    """Return the background prompts with those of ready lists, which leave out the words of the classes."""
    taken = [word for synonyms in words for word in synonyms]
    found: list[str] = []
    for prompt in prompts:
        if isinstance(prompt, str) and prompt.strip().startswith(MARK):
            found += get_ready_words(prompt.strip().removeprefix(MARK), taken, where)
        else:
            found += _split_synonyms(prompt, where, False)
    if not found:
        got = f"all words of the background {', '.join(prompts)} are classes"
        raise InputError(where, got, "Choose another background, or none.")
    return tuple(dict.fromkeys(found))  # the published lists repeat some prompts, which has no effect


def _split_synonyms(name: object, where: object, allow_commas: bool) -> tuple[str, ...]:
    words = tuple(word.strip() for word in name.split(SYNONYM_SEPARATOR)) if isinstance(name, str) else ()
    if any(map(CONTROL_CHARACTER.search, words)):
        got = f"the class name {str(name)[:60]!r} contains a control character"
        raise InputError(where, got, "Remove tabs and other control characters from the list.")
    if not words or not all(words):
        fix = "Give every class and every synonym a name."
        if not isinstance(name, str):
            fix = "Write names as text. In YAML, quote numbers and words such as yes and no."
        raise InputError(where, f"invalid class name {name!r}", fix)
    parts = [part.strip() for word in words for part in word.split(",")]
    if len(parts) > len(words) and not (allow_commas and all(parts)):
        got = f"the class name {str(name)[:60]!r} contains a comma"
        raise InputError(where, got, "Make each class an entry of its own, and put ';' between synonyms.")
    return words


def _check_unique(names: list[str], words: list[tuple[str, ...]], where: object) -> None:
    owners: dict[str, str] = {}
    for name, synonyms in zip(names, words, strict=False):
        for word in synonyms:
            if word in owners:
                got = f"{word!r} appears twice (in class {owners[word]!r} and in class {name!r})"
                raise InputError(where, got, "Remove one, or join the classes with ';' to make them synonyms.")
            owners[word] = name
    if len(set(names)) != len(names):
        got = f"a class named {BACKGROUND_NAME!r} in addition to background prompts"
        raise InputError(where, got, "Remove the class or the background prompts.")
