"""Reading of YAML as plain data: numbers, strings, lists and mappings only.

The loaders of Detectron2, and of fvcore if allowed, build any object that a tag such as ``!!python/object/apply``
names. Neither is used for a user's file.
"""

from __future__ import annotations

from typing import Any

import yaml

from cliptrase_d2.utils.errors import InputError

_MAX_LETTERS = 2**20
_MAX_ENTRIES = 1_000_000  # with aliases expanded: ten short lines of them can stand for 10^10 entries
_MAX_DEPTH = 50
_TUPLE = "!tuple"  # of lists that are keys, since only tuples can be


class _Loader(yaml.SafeLoader):
    """The safe loader, except that it rejects duplicate keys, of which YAML silently keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        # Before "<<" is merged, whose keys a mapping may override.
        keys = [_describe_key(key) for key, _ in node.value]
        if len(set(keys)) < len(keys):
            duplicate = next(key for key in keys if keys.count(key) > 1)
            raise yaml.MarkedYAMLError(None, None, f"the key {duplicate} twice", node.start_mark)
        for key, _ in node.value:
            if isinstance(key, yaml.SequenceNode):
                key.tag = _TUPLE
        return super().construct_mapping(node, deep=deep)

    def construct_tuple(self, node: yaml.SequenceNode) -> tuple[Any, ...]:
        """Return a list that is a key, such as the colour in ``[0, 128, 255]: water``."""
        return tuple(self.construct_sequence(node))


_Loader.add_constructor(_TUPLE, _Loader.construct_tuple)


def _describe_key(node: yaml.Node) -> str:
    """Return the text of a key, by which keys are compared."""
    if isinstance(node, yaml.SequenceNode):
        return f"[{', '.join(map(_describe_key, node.value))}]"
    return str(node.value)


def load_plain_yaml(text: str, where: object) -> Any:
    """Return the value of a YAML text.

    Args:
        text: the YAML.
        where: its file, for the message.
    Raises:
        InputError: the text cannot be parsed, is too large, or has a duplicate key or a tag beyond plain data.
    """
    try:
        if len(text) > _MAX_LETTERS:
            raise ValueError(f"{len(text):,} letters, more than {_MAX_LETTERS:,}")
        value = yaml.load(text, Loader=_Loader)  # nosec B506  # a SafeLoader
        _check_plain(value)
    except Exception as error:  # PyYAML has Python's own errors, too: for a date of month 13, or `!!bool maybe`
        problem = "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        fix = "Correct this line. Tags that run code are never loaded."
        if ":python/" in problem:
            fix = "Write the value in place of the tag, such as [320, 640]. Tags that run code are never loaded."
        raise InputError(where, f"invalid YAML ({problem})", fix) from error
    return value


def _check_plain(value: Any) -> None:
    """Raise if a value is too large to print or traverse, or has text that no file can hold."""
    entries = 0
    waiting = [(value, 0)]
    while waiting:
        part, depth = waiting.pop()
        entries += 1
        if entries > _MAX_ENTRIES or depth > _MAX_DEPTH:
            raise ValueError(f"more than {_MAX_ENTRIES:,} entries, or nested in more than {_MAX_DEPTH} levels")
        if isinstance(part, dict):
            waiting += [(inner, depth + 1) for pair in part.items() for inner in pair]
        elif isinstance(part, list | tuple | set):
            waiting += [(inner, depth + 1) for inner in part]
        elif isinstance(part, str) and ("\0" in part or any("\ud800" <= letter <= "\udfff" for letter in part)):
            raise ValueError(f"a character in {part[:40]!r} that no text file can hold")
        elif isinstance(part, int) and abs(part) >= 2**63:
            raise ValueError("an integer of more than 64 bits")
