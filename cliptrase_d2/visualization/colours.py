"""Colours of classes: distinct, natural for sky, grass and other common classes, and equal in all pictures of a set."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from threading import Lock

import cv2
import numpy as np

# Every pair differs by at least 25 in CIE ΔE2000, and by 15 as it is seen with deuteranopia (Viénot 1999, Machado
# 2009). Found by annealing around the colours that the names suggest; the tests compute both distances.
_DISTINCT = {
    **{"crimson": (196, 6, 100), "lime": (215, 255, 24), "indigo": (76, 22, 143), "mustard": (197, 162, 7)},
    **{"teal": (12, 154, 155), "violet": (189, 87, 255), "person": (247, 133, 170), "building": (137, 60, 29)},
    **{"sand": (255, 198, 167), "snow": (194, 246, 237), "road": (96, 90, 102), "sky": (152, 190, 253)},
    **{"water": (15, 103, 208), "tree": (27, 72, 43), "grass": (92, 144, 54)},
}
_NAMES = tuple(_DISTINCT)
# The colours that suit a class, the best first, and the last words of its name. Of a vocabulary, the class with the
# earliest word has the best colour.
_NATURAL = {
    ("sky", "snow"): "sky cloud fog",
    ("grass", "tree", "lime", "teal"): "grass lawn meadow pasture turf field",
    ("tree", "grass", "lime", "teal"): "tree vegetation forest wood plant bush hedge shrub leaf leaves foliage",
    ("water", "teal", "sky"): "water sea ocean river lake pond pool waterfall",
    ("road", "sand", "mustard"): "road street asphalt highway pavement sidewalk path runway parking",
    ("sand", "mustard"): "sand beach desert dune",
    ("snow", "sky"): "snow ice glacier",
    ("building", "sand", "mustard"): "building house wall brick roof tower skyscraper fence",
    ("building", "mustard", "sand"): "soil ground earth dirt mud gravel floor rock stone mountain hill",
    ("person", "crimson"): "person people human man woman child boy girl pedestrian rider",
}
_BY_WORD = {word: names for names, words in _NATURAL.items() for word in words.split()}
_RANK = {word: rank for rank, word in enumerate(_BY_WORD)}
_GREY = 128  # of classes that were not drawn yet
_LEVELS = np.linspace(0, 255, 12)  # of each channel, for further colours
_MIN_LIGHTNESS = 25  # of further colours; black marks pixels that are not scored


def palette(count: int) -> np.ndarray:
    """Return different colours for 0, 1, …. The first 15 differ most; a colour does not depend on the count.

    Args:
        count: number of colours. They repeat after more than a thousand.
    Returns:
        [count,3] uint8 RGB.
    """
    distinct = np.array(list(_DISTINCT.values()), np.uint8)
    if count <= len(distinct):
        return distinct[:count]
    colours = _extended_palette()
    return colours[np.arange(count) % len(colours)]


class ClassColours:
    """Colours of a vocabulary, given to classes in the order in which they are drawn. A class keeps its colour.

    A common class such as grass has a natural colour, or a similar one if other classes took it. Up to 15 classes, all
    of which have colours from the start, differ for everybody; of a larger vocabulary, the first 15 that are drawn.

    Args:
        classes: C names.
    """

    def __init__(self, classes: Sequence[str]):
        words = [_find_word(name) for name in classes]
        owners: dict[str, int] = {}  # natural colour -> the class that it suits best
        for index in sorted(range(len(classes)), key=lambda index: _RANK.get(words[index], 0)):
            if words[index]:
                owners.setdefault(_BY_WORD[words[index]][0], index)
        # Places in the palette: of the natural colours of each class, and of all, those of no owner first.
        self._natural = [
            [_NAMES.index(name) for name in _BY_WORD.get(word, ()) if owners.get(name, index) == index]
            for index, word in enumerate(words)
        ]
        free = [place for place, name in enumerate(_NAMES) if name not in owners]
        self._order = list(dict.fromkeys([*free, *range(len(classes) + len(_NAMES))]))
        self._colours = np.full((len(classes), 3), _GREY, np.uint8)
        self._taken: dict[int, int] = {}  # class -> index into the palette
        self._lock = Lock()  # the page draws in several threads
        if len(classes) <= len(_NAMES):
            self.assign(range(len(classes)))

    def assign(self, present: Iterable[int]) -> np.ndarray:
        """Give colours to classes that have none, and return the colours of all classes.

        Args:
            present: indices of the classes of a picture, the most important first.
        Returns:
            [C,3] uint8 RGB; grey for classes that no picture had.
        """
        with self._lock:
            new = [index for index in present if index not in self._taken]
            # Classes with a natural colour choose first.
            for index in sorted(new, key=lambda index: not self._natural[index]):
                taken = set(self._taken.values())
                natural = self._natural[index]
                similar = _sort_by_distance(natural[0]) if natural and taken.issuperset(range(len(_NAMES))) else ()
                place = next(place for place in [*natural, *similar, *self._order] if place not in taken)
                self._taken[index] = place
                self._colours[index] = palette(place + 1)[place]
            return self._colours.copy()


@lru_cache(maxsize=64)
def shared_colours(classes: tuple[str, ...]) -> ClassColours:
    """Return the colours of a vocabulary that all pictures of this process share: frames, images and methods."""
    return ClassColours(classes)


def _find_word(name: str) -> str:
    """Return the known word that ends a class name such as "night sky", "trees" or "sky-other"; "" for none."""
    words = re.findall(r"\w+", re.split("[-;,(]", name.lower())[0].replace("_", " "))
    candidates = (words[-1], words[-1].removesuffix("s")) if words else ()
    return next((word for word in candidates if word in _BY_WORD), "")


@lru_cache(maxsize=len(_NAMES))
def _sort_by_distance(place: int) -> tuple[int, ...]:
    """Return all places of the palette, those with the most similar colours in CIELAB first."""
    lab = _to_lab(_extended_palette())
    return tuple(np.linalg.norm(lab - lab[place], axis=1).argsort(kind="stable").tolist())


def _to_lab(colours: np.ndarray) -> np.ndarray:
    """Convert RGB [P,3] uint8 to CIELAB, [P,3]."""
    return cv2.cvtColor(colours[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]


@lru_cache(maxsize=1)
def _extended_palette() -> np.ndarray:
    """Return the distinct colours, then those of a grid, each the farthest in CIELAB from all before it, [P,3]."""
    grid = np.stack(np.meshgrid(_LEVELS, _LEVELS, _LEVELS), -1).reshape(-1, 3)
    colours = np.rint(np.concatenate([np.array(list(_DISTINCT.values())), grid])).astype(np.uint8)
    lab = _to_lab(colours)
    order = list(range(len(_NAMES)))
    nearest = np.min([np.linalg.norm(lab - lab[place], axis=1) for place in order], axis=0)
    nearest[lab[:, 0] < _MIN_LIGHTNESS] = 0
    while nearest.max() > 0:
        order.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(lab - lab[order[-1]], axis=1))
    return colours[order]
