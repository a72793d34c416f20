"""Text files of a folder that list its images."""

from __future__ import annotations

from dataclasses import dataclass

from cliptrase_d2.data.proposal.inventory import MASK_SUFFIXES, Inventory, suffix
from cliptrase_d2.data.proposal.pairs import Pair
from cliptrase_d2.data.proposal.words import get_split, rank_split
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.user_files import read_text

_MAX_BYTES = 2**24
_MAX_FILES = 200


@dataclass(frozen=True)
class ImageList:
    """A list of images.

    Attributes:
        path: relative to the root.
        stems: of the listed images, with their endings.
    """

    path: str
    stems: frozenset[str]


def find_lists(inventory: Inventory, pair: Pair) -> list[ImageList]:
    """Return the lists of images that all have labels and are not all images, the best for an evaluation first."""
    labelled = {image.stem for image, _ in pair.matched}
    short = {stem[: len(stem) - len(pair.pictures.ending)]: stem for stem in labelled} if pair.pictures.ending else {}
    lists = []
    for path in inventory.paths((".txt", ".lst"))[:_MAX_FILES]:
        file = inventory.root / path
        if file.stat().st_size > _MAX_BYTES:
            continue
        try:
            lines = [line.strip() for line in read_text(file).splitlines() if line.strip()]
        except InputError:  # no text
            continue
        stems = {_find_stem(line, labelled, short) for line in lines}
        if stems and "" not in stems and (len(stems) < len(labelled) or pair.lone_pictures):
            lists.append(ImageList(path, frozenset(stems)))
    return sorted(lists, key=lambda one: (-rank_split(get_split([one.path.rpartition("/")[2]])), one.path))


def _find_stem(line: str, stems: set[str], short: dict[str, str]) -> str:
    """Return the stem of the image in a line, of which it is a name or path, alone or before its label."""
    first, _, rest = line.replace("\t", " ").partition(" ")
    for entry in (line, first) if suffix(rest) in MASK_SUFFIXES else (line,):
        name = entry.rpartition("/")[2]
        for candidate in (name, name.rpartition(".")[0]):
            if candidate in stems or candidate in short:
                return short.get(candidate, candidate)
    return ""
