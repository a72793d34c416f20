"""Groups of classes that are also scored apart, things and stuff for example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cliptrase_d2.utils.errors import InputError

ClassGroups = dict[str, tuple[int, ...]]


def class_groups(
    groups: Mapping[str, Sequence[str]], entries: Sequence[str], names: Sequence[str], where: object
) -> ClassGroups:
    """Class indices of every group.

    Args:
        groups: group name -> classes, each as the class list spells it, or by its name alone.
        entries: the class list as written, where "a;b" is class "a".
        names: C class names, those of ``entries`` first.
        where: file or data set that the groups come from, for the message.
    Raises:
        InputError: a group without a name or without classes, or a class that is unknown or named twice.
    """
    index = {name: position for position, name in enumerate(names)}
    index |= {entry: position for position, entry in enumerate(entries)}
    return {name: _members(name, members, index, names, where) for name, members in groups.items()}


def _members(
    name: object, members: Sequence[str], index: Mapping[str, int], names: Sequence[str], where: object
) -> tuple[int, ...]:
    if not isinstance(name, str) or not name.strip():
        raise InputError(
            where, f"the group name {name!r}", "Give every group a name (quote it in YAML).", allowed="text"
        )
    if not members:
        raise InputError(
            where, f"the group {name!r} without a class", "Fill it, or leave it out.", allowed="at least one class"
        )
    for member in members:
        if not isinstance(member, str) or member not in index:
            allowed = f"the classes of the data set: {', '.join(names)}"
            raise InputError(
                where, f"the class {member!r} in group {name!r}", "Spell it as in the class list.", allowed=allowed
            )
    indices = tuple(index[member] for member in members)
    if len(set(indices)) < len(indices):
        twice = next(names[position] for position in indices if indices.count(position) > 1)
        raise InputError(
            where, f"the class {twice!r} twice in group {name!r}", "Remove one of them.", allowed="every class once"
        )
    return indices
