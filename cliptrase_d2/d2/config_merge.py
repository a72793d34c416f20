"""Merge files and KEY VALUE pairs into a config, on either side of the door: safely, and with errors that help.

Detectron2's own `merge_from_file` loads YAML tags that run code. This module never does.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fvcore.common.config import BASE_KEY, CfgNode

from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.plain_yaml import PlainYAMLError, load_plain_yaml
from cliptrase_d2.utils.user_files import read_text

_MOST_FILES = 100


def merge_config_file(cfg: CfgNode, path: str | os.PathLike[str]) -> None:
    """Merge a YAML file into `cfg`, after the files that its `_BASE_` names.

    Raises:
        InputError: a file is missing, is no plain YAML or runs in a circle, or a key or type is not one of `cfg`.
    """
    for file, content in _files_in_order(os.fspath(path), ()):
        for key, value in _leaves(cfg, content, file):
            tree = value
            for part in reversed(key.split(".")):
                tree = {part: tree}
            try:
                cfg.merge_from_other_cfg(type(cfg)(tree))
            except (AssertionError, ValueError) as error:
                raise _type_error(cfg, key, value, f"{file}: {key}") from error


def merge_config_options(cfg: CfgNode, opts: Sequence[str] | None) -> None:
    """Merge KEY VALUE pairs, as the command line gives them, into `cfg`.

    Raises:
        InputError: a key without its value, an unknown key, or a value of another type than the key has.
    """
    opts = list(opts or [])
    where = "options KEY VALUE"
    for flag in opts:
        if str(flag).startswith("--"):
            raise InputError(
                where, f"the flag {flag}", "Move all flags before the first KEY.", allowed="keys and values"
            )
    if len(opts) % 2:
        got = f"{len(opts)} words: {' '.join(map(str, opts))}"
        raise InputError(where, got, "Separate each key from its value by a space.", allowed="pairs of KEY and VALUE")
    known = set(_all_keys(cfg))
    for key, value in zip(opts[::2], opts[1::2], strict=True):
        if key not in known:
            raise _unknown_key(cfg, key, where)
        try:
            cfg.merge_from_list([key, value])
        # Python's own reader of values has further names for what is nested too deeply, or a key that is a list.
        except (AssertionError, ValueError, TypeError, RecursionError, MemoryError) as error:
            raise _type_error(cfg, key, value, f"option {key}") from error


def _files_in_order(
    path: str, parents: tuple[str, ...], read: list[str] | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each file with its content, bases first, so that merging in this order lets the leaf win."""
    read = [] if read is None else read
    read.append(path)
    if len(read) > _MOST_FILES:  # thirty files that name two bases each would be read 2^30 times
        got = f"more than {_MOST_FILES} files by way of {BASE_KEY}"
        raise InputError(read[0], got, "Name fewer bases, or each of them once.", allowed=f"{_MOST_FILES} at most")
    if os.path.realpath(path) in parents:
        raise InputError(
            path, f"its {BASE_KEY} leads back to itself", "Cut the circle.", allowed=f"a chain of {BASE_KEY} files"
        )
    content = _read_yaml(path)
    bases = content.pop(BASE_KEY, [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        got = f"{bases!r} ({type(bases).__name__})"
        raise InputError(
            f"{path}: {BASE_KEY}", got, "Give paths relative to this file.", allowed="a path or a list of paths"
        )
    for base in bases:
        base_path = os.path.join(os.path.dirname(path), os.path.expanduser(base))
        yield from _files_in_order(base_path, (*parents, os.path.realpath(path)), read)
    yield path, content


def _read_yaml(path: str) -> dict[str, Any]:
    allowed = "a file of plain YAML: keys with numbers, words, lists"
    try:
        content = load_plain_yaml(read_text(path))
    except PlainYAMLError as error:
        got = f"a tag that plain YAML does not have ({error})" if error.is_tag else f"it cannot be parsed ({error})"
        fix = "Write the value itself; tags that run code are never loaded." if error.is_tag else "Correct that line."
        raise InputError(path, got, fix, allowed=allowed) from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InputError(
            path, f"a {type(content).__name__} at the top", "Begin with a key such as MODEL:", allowed=allowed
        )
    return content


def _leaves(node: CfgNode, content: Mapping[Any, Any], file: str, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted key and value of each leaf, once its key is known to exist."""
    for name, value in content.items():
        key = f"{prefix}{name}"
        child = node.get(name)
        if name not in node and not node.is_new_allowed():
            raise _unknown_key(node, key, file, prefix)
        if isinstance(child, CfgNode) and isinstance(value, dict):
            yield from _leaves(child, value, file, f"{key}.")
        elif isinstance(child, CfgNode) and value is not None:
            got = f"{value!r} ({type(value).__name__})"
            raise InputError(
                f"{file}: {key}", got, "Give one of them a value.", allowed=f"keys such as {', '.join(child)}"
            )
        elif value is not None or not isinstance(child, CfgNode):  # a heading with nothing below it says nothing
            yield key, value


def _all_keys(node: CfgNode, prefix: str = "") -> Iterator[str]:
    for name, value in node.items():
        if isinstance(value, CfgNode):
            yield from _all_keys(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _unknown_key(node: CfgNode, key: str, where: str, prefix: str = "") -> InputError:
    keys = [*_all_keys(node, prefix), *(f"{prefix}{name}" for name in node)]
    close = difflib.get_close_matches(key.upper(), keys, n=1)
    allowed = (
        f"the keys of the config; the closest is {close[0]}" if close else f"the keys of the config: {_first(keys)}"
    )
    fix = f"Write {close[0]}." if close else "Check the key's spelling and place."
    return InputError(where, f"unknown key {key}", fix, allowed=allowed)


def _first(keys: Sequence[str], most: int = 8) -> str:
    return ", ".join(keys[:most]) + (", ..." if len(keys) > most else "")


def _type_error(cfg: CfgNode, key: str, value: object, where: str) -> InputError:
    current: Any = cfg
    for part in key.split("."):
        current = current[part]
    kind = type(current).__name__
    fix = f"Its value now is {current!r}; write yours in the same form."
    return InputError(where, f"{value!r} ({type(value).__name__})", fix, allowed=f"a value of type {kind}")
