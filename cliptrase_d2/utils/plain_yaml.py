"""YAML as data: the safe loader and nothing that it could be asked for beyond numbers, words, lists and keys.

Detectron2's own loader builds whatever object a tag such as ``!!python/object/apply`` names, and so does fvcore's where
it is allowed to. None of them is used for a file of a user.
"""

from __future__ import annotations

from typing import Any

import yaml

_MOST_LETTERS = 2**20
_MOST_ENTRIES = 1_000_000  # after aliases are followed: ten short lines of them can stand for 10^10 entries
_MOST_DEPTH = 50


class PlainYAMLError(ValueError):
    """A text that is no plain YAML.

    Attributes:
        is_tag: whether it asks for something other than plain values.
    """

    def __init__(self, problem: str, *, is_tag: bool = False):
        super().__init__(problem)
        self.is_tag = is_tag


class _Loader(yaml.SafeLoader):
    """The safe loader, which refuses a key given twice where YAML would keep the last one silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        # Before "<<" is filled in: what a key of the mapping itself replaces there is replaced on purpose.
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise yaml.MarkedYAMLError(None, None, f"the key {twice} twice", node.start_mark)
        return super().construct_mapping(node, deep=deep)


def load_plain_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        PlainYAMLError: it cannot be parsed, has a tag that plain YAML lacks, a key twice, or more in it than a
            description holds.
    """
    if len(text) > _MOST_LETTERS:
        raise PlainYAMLError(f"{len(text):,} letters, more than {_MOST_LETTERS:,}")
    try:
        value = yaml.load(text, Loader=_Loader)  # nosec B506  # which is a SafeLoader
    except yaml.constructor.ConstructorError as error:
        line = f"; line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise PlainYAMLError(f"{error.problem}{line}", is_tag=True) from error
    except (yaml.YAMLError, RecursionError) as error:
        problem = "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise PlainYAMLError(problem) from error
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        # PyYAML's own, of a value that is none of its kind: a date of month 13, `!!bool maybe`.
        raise PlainYAMLError(f"a value that is not of its kind ({type(error).__name__}: {error})") from error
    _check(value)
    return value


def _check(value: Any) -> None:
    """Refuse what is too much to print or to walk through, and text that no file can hold."""
    entries = 0
    waiting = [(value, 0)]
    while waiting:
        part, depth = waiting.pop()
        entries += 1
        if entries > _MOST_ENTRIES or depth > _MOST_DEPTH:
            raise PlainYAMLError(f"more than {_MOST_ENTRIES:,} entries, or nested in more than {_MOST_DEPTH} levels")
        if isinstance(part, dict):
            waiting += [(inner, depth + 1) for pair in part.items() for inner in pair]
        elif isinstance(part, list | tuple | set):
            waiting += [(inner, depth + 1) for inner in part]
        elif isinstance(part, str) and ("\0" in part or any("\ud800" <= letter <= "\udfff" for letter in part)):
            raise PlainYAMLError(f"a character in {part[:40]!r} that no text file can hold")
        elif isinstance(part, int) and abs(part) >= 2**63:
            raise PlainYAMLError("a whole number of more than 64 bits")
