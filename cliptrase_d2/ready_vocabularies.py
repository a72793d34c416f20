"""Ready lists of background prompts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cliptrase_d2.utils.errors import InputError, suggest

MARK = "@"  # before the name of a ready list, where a word could stand as well
_FOLDER = Path(__file__).parent / "data" / "vocabularies"
_COCO_THINGS = 80  # classes of COCO-Stuff before the first stuff class


@dataclass(frozen=True)
class _ReadyList:
    """A file of ``data/vocabularies``, without its first ``skip`` lines."""

    description: str
    file: str
    skip: int = 0


_READY_LISTS = {
    "common": _ReadyList("24 common surroundings: sky, wall, floor, grass, …", "common_background.txt"),
    "voc": _ReadyList("the paper's 33 background prompts for VOC21", "voc_background.txt"),
    "pcontext": _ReadyList("the 59 classes of PASCAL-Context: objects and surroundings", "pcontext.txt"),
    "coco_stuff": _ReadyList("the 91 surroundings of COCO-Stuff", "coco_stuff.txt", skip=_COCO_THINGS),
    "coco_object": _ReadyList("the paper's 107 background prompts for COCO-Object", "coco_object_background.txt"),
    "coco": _ReadyList("the 171 classes of COCO-Stuff: objects and surroundings", "coco_stuff.txt"),
}


def list_ready_vocabularies() -> dict[str, str]:
    """Return the description of each ready list by its name, shortest list first."""
    return {name: ready.description for name, ready in _READY_LISTS.items()}


def get_ready_words(name: str, taken: Iterable[str], where: object) -> tuple[str, ...]:
    """Return the words of a ready list, without those that would compete with a user's words for the same pixels.

    A word is left out if it equals a taken word, in any case, or if its part before a hyphen does: COCO's "wall-brick"
    and "sky-other" are a wall and a sky.

    Args:
        name: of the list.
        taken: the words of the user's classes.
        where: source of the name, for error messages.
    Raises:
        InputError: there is no such list.
    """
    if name not in _READY_LISTS:
        fix = suggest(name, _READY_LISTS, "Choose one of them, or put background words in a list.")
        raise InputError(where, f"no ready background list is named {name!r}", fix, allowed=", ".join(_READY_LISTS))
    ready, lower = _READY_LISTS[name], {word.lower() for word in taken}
    words = (_FOLDER / ready.file).read_text(encoding="utf-8").splitlines()[ready.skip :]
    return tuple(word for word in words if lower.isdisjoint((word, word.split("-")[0])))
