"""Sets of files: folders that hold the parts of one set become a pattern with a ``*``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from cliptrase_d2.data.proposal.content import PICTURE
from cliptrase_d2.data.proposal.inventory import MEDIA_SUFFIXES, Inventory, join, suffix
from cliptrase_d2.data.proposal.samples import sample
from cliptrase_d2.data.proposal.words import get_common_start, get_split, is_role, split_words

_MAX_CLASSIFIED = 6  # folders that are compared by the content of a file
_MANY = 4  # folders that differ in a number are samples, also if a word in their names means pictures or a split
_CONSTANT = {"img", "image", "label", "mask", "gt", "seg", "rgb"}  # names of files in a folder of one sample
Classify = Callable[[str], str]  # relative path -> kind of content


class File(NamedTuple):
    """A picture or a label file.

    Attributes:
        wild: the folders that the wildcards of its set stand for.
        stem: its name without the suffix.
        path: relative to the root.
    """

    wild: tuple[str, ...]
    stem: str
    path: str


@dataclass
class _Node:
    path: str
    names: tuple[str, ...] = ()
    children: dict[str, _Node] = field(default_factory=dict)


_Sets = dict[tuple[str, ...], list[File]]


def find_sets(inventory: Inventory, classify: Classify) -> _Sets:
    """Return the pictures and label files of an inventory by their folder, as parts of a path.

    A part is a pattern, such as ``*`` or ``clip*``, if the folders it stands for hold files of one kind, and either
    differ only in a number, or have files of different names, or exist beside another set as well.

    Args:
        inventory: of the folder.
        classify: returns whether the content of a file is a picture or a label.
    """
    root = _Node("")
    for folder, names in inventory.files.items():
        media = tuple(name for name in names if suffix(name) in MEDIA_SUFFIXES)
        if not media:
            continue
        node = root
        for part in folder.split("/") if folder else ():
            node = node.children.setdefault(part, _Node(join(node.path, part)))
        node.names = media
    return _collect(root, _find_mirrored(root), classify)


def _find_mirrored(root: _Node) -> Counter[str]:
    """Count the parents of every folder name."""
    counts: Counter[str] = Counter()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        counts.update(list(node.children))
        waiting += node.children.values()
    return counts


def _collect(node: _Node, mirrored: Counter[str], classify: Classify) -> _Sets:
    sets: _Sets = {}
    if node.names:
        sets[()] = [File((), name.rpartition(".")[0], join(node.path, name)) for name in node.names]
    below = {name: _collect(child, mirrored, classify) for name, child in node.children.items()}
    joined = _find_joined(below, mirrored, classify)
    for name, child_sets in below.items():
        for parts, files in child_sets.items():
            if name in joined:
                sets.setdefault((joined[name], *parts), []).extend(
                    File((name, *file.wild), file.stem, file.path) for file in files
                )
            else:
                sets[(name, *parts)] = files
    return sets


def _find_joined(below: dict[str, _Sets], mirrored: Counter[str], classify: Classify) -> dict[str, str]:
    """Return the pattern of every folder that is a part of a larger set."""
    groups: dict[str, list[str]] = {}
    for name in below:
        groups.setdefault(re.sub(r"\d+", "#", name), []).append(name)
    is_sample = {name: len(group) >= _MANY for group in groups.values() for name in group}
    free = [name for name in below if is_sample[name] or not (is_role(name) or get_split([name]))]
    numbered = max(groups.values(), key=len, default=[])
    numbered = numbered if set(numbered) <= set(free) else []
    if len(free) > 1 and _is_one_kind(free, below, classify) and _belong_together(free, numbered, below, mirrored):
        members = free
    elif len(numbered) > 1 and _is_one_kind(numbered, below, classify):
        members = numbered
    else:
        return {}
    start = "" if len(members) == len(below) else get_common_start(members)
    return dict.fromkeys(members, f"{start}*") if start or len(members) == len(below) else {}


def _belong_together(
    names: Sequence[str], numbered: Sequence[str], below: dict[str, _Sets], mirrored: Counter[str]
) -> bool:
    if len(numbered) == len(names) or sum(mirrored[name] > 1 for name in names) >= max(2, len(names) // 2):
        return True
    file_names = [{file.path.rpartition("/")[2] for files in below[name].values() for file in files} for name in names]
    if len(frozenset.union(*map(frozenset, file_names))) == sum(map(len, file_names)):  # no name occurs twice
        return True
    words = {word for file in file_names[0] for word in split_words(file.rpartition(".")[0])}
    return len(words & _CONSTANT) > 1 and all(len(found & file_names[0]) > 1 for found in file_names)


def _is_one_kind(names: Sequence[str], below: dict[str, _Sets], classify: Classify) -> bool:
    """Return whether folders have the same folders, suffixes and kinds of content, as far as a few files tell."""
    shapes = [{(parts, kind) for parts, files in below[name].items() for kind in _suffixes(files)} for name in names]
    if not set.intersection(*shapes):
        return False
    by_kind: dict[tuple[object, ...], set[str]] = {}
    for name in sample(names, _MAX_CLASSIFIED):
        for parts, files in below[name].items():
            first = {suffix(file.path): file.path for file in reversed(files)}
            for kind, path in first.items():
                by_kind.setdefault((parts, kind), set()).add(PICTURE if kind == ".jpg" else classify(path))
    return all(len(kinds) == 1 for kinds in by_kind.values())


def _suffixes(files: Iterable[File]) -> set[str]:
    return {suffix(file.path) for file in files}
