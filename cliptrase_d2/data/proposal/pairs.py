"""Pairs of sets: which files are the pictures, which are their labels, and how their names differ."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from cliptrase_d2.data.proposal.content import LABEL, PICTURE
from cliptrase_d2.data.proposal.file_sets import Classify, File
from cliptrase_d2.data.proposal.inventory import MASK_SUFFIXES, PICTURE_SUFFIXES, suffix
from cliptrase_d2.data.proposal.samples import sample
from cliptrase_d2.data.proposal.words import (
    get_common_start,
    get_split,
    normalize_split,
    rank_split,
    score_labels,
    score_pictures,
    split_words,
)

_MAX_SETS = 40  # of each side, the largest
_MAX_ENDINGS = 16  # of one set
_PROBED = 60  # files of which the partner is looked for before all are paired
_MAX_WHOLE = 6  # different stems of a set whose folders are samples
_LIKELY = 0.5  # least share of the smaller side that is paired
# A number is no ending: "a_000010_leftImg8bit" ends in "_leftImg8bit".
_ENDING = re.compile(r"[_\-. ](?!.*(?<![^_\-. ])\d+(?![^_\-. ]))")


@dataclass(frozen=True)
class Side:
    """Files of one set with some suffixes and one ending of their stems.

    Attributes:
        parts: the folder; parts with a ``*`` are patterns.
        suffixes: of the files.
        files: all files of the set with these suffixes.
        is_narrow: whether the folder has pictures or label files with other suffixes.
        ending: of the stems; the whole stem if ``is_constant``.
        start: of all stems, which the other side does not share.
        is_constant: all stems are the ending, and the folders tell the files apart.
    """

    parts: tuple[str, ...]
    suffixes: tuple[str, ...]
    files: tuple[File, ...]
    is_narrow: bool
    ending: str = ""
    is_constant: bool = False
    start: str = ""

    @cached_property
    def endings(self) -> list[tuple[str, bool]]:
        """The most frequent endings of the stems, and whether each is a whole stem."""
        counts: Counter[str] = Counter()
        for file in self.files:
            starts = [match.start() for match in _ENDING.finditer(file.stem)]
            counts.update(file.stem[start:] for start in starts[-4:] if start)
        frequent = [ending for ending, count in counts.most_common(_MAX_ENDINGS) if count > 1 or len(self.files) < 3]
        found = [("", False), *((ending, False) for ending in frequent)]
        stems = Counter(file.stem for file in self.files) if any("*" in part for part in self.parts) else Counter()
        constant = [(stem, True) for stem in sorted(stems) if stems[stem] > 1]
        return found + constant * (len(stems) <= _MAX_WHOLE)

    def without_start(self) -> Side:
        """Return the same files, with the common start of their stems."""
        return replace(self, start=get_common_start(file.stem for file in self.files))

    @cached_property
    def _keys(self) -> dict[tuple[str, bool, bool], dict[object, File]]:
        return {}

    def keys(self, ending: str, is_constant: bool, *, with_folders: bool) -> dict[object, File]:
        """Return the files with an ending by their key: the rest of the stem, and the folders if wanted."""
        key = (ending, is_constant, with_folders)
        if key not in self._keys:
            self._keys[key] = self._list_keys(ending, is_constant, with_folders)
        return self._keys[key]

    def _list_keys(self, ending: str, is_constant: bool, with_folders: bool) -> dict[object, File]:
        found: dict[object, File] = {}
        for file in self.files:
            if file.stem == ending if is_constant else file.stem.endswith(ending) and file.stem != ending:
                rest = "" if is_constant else file.stem[len(self.start) : len(file.stem) - len(ending)]
                found[(file.wild, rest) if with_folders else rest] = file
        return found


@dataclass(frozen=True)
class Pair:
    """Pictures and their label files.

    Attributes:
        pictures, labels: the two sides, with their endings.
        matched: picture and label file of each pair.
        lone_pictures, lone_labels: number of files without a partner.
        score: of the words in the names; larger is more likely.
        kinds: number of sides, 0 to 2, whose content was seen to be pictures or labels.
    """

    pictures: Side
    labels: Side
    matched: tuple[tuple[File, File], ...]
    lone_pictures: int
    lone_labels: int
    score: int
    kinds: int

    @property
    def split(self) -> str:
        """The split that the folders name, such as "val2017"; "" for none."""
        return get_split(self.pictures.parts) or get_split(self.labels.parts)

    @property
    def form(self) -> tuple[object, ...]:
        """How the names and contents of the two sides differ."""
        sides = ((side.ending, side.is_constant, side.is_narrow) for side in (self.pictures, self.labels))
        return self.kinds, *sides

    @property
    def rank(self) -> tuple[object, ...]:
        """Sort key; the most likely pair has the smallest."""
        coverage = len(self.matched) / (len(self.matched) + self.lone_labels)
        narrow = self.pictures.is_narrow + self.labels.is_narrow
        endings = len(self.pictures.ending) + len(self.labels.ending)
        score = self.score + rank_split(self.split) / 10
        if self.labels.parts == self.pictures.parts:
            narrow = -narrow  # suffixes tell the two apart
        names = ("/".join(self.pictures.parts), "/".join(self.labels.parts), self.pictures.suffixes)
        return -self.kinds, -score, -(coverage > 0.9), -len(self.matched), self.lone_pictures, narrow, endings, names


def list_sides(sets: Mapping[tuple[str, ...], Sequence[File]], allowed: frozenset[str]) -> list[Side]:
    """Return the largest sets of files with suffixes of one kind: all of them, and those with a single suffix."""
    sides = []
    for parts, files in sets.items():
        counts = Counter(suffix(file.path) for file in files)
        fitting = sorted(set(counts) & allowed)
        for chosen in [fitting, *([kind] for kind in fitting)] if len(fitting) > 1 else [fitting] * bool(fitting):
            members = tuple(file for file in files if suffix(file.path) in chosen)
            is_narrow = len(chosen) < len(counts)
            sides.append(Side(parts, tuple(chosen), members, is_narrow))
    return sorted(sides, key=lambda side: (-len(side.files), side.parts, side.suffixes))[:_MAX_SETS]


def find_pairs(sets: Mapping[tuple[str, ...], Sequence[File]], classify: Classify) -> list[Pair]:
    """Return the possible pairs of sets, the most likely first."""
    pictures, labels = list_sides(sets, PICTURE_SUFFIXES), list_sides(sets, MASK_SUFFIXES)
    combined = [(image, label) for image, label in itertools.product(pictures, labels) if _can_belong(image, label)]
    pairs = [pair for image, label in combined for pair in _match(image, label, classify)]
    if not pairs:  # the stems may start differently
        started = [(image.without_start(), label.without_start()) for image, label in combined]
        pairs = [pair for image, label in started for pair in _match(image, label, classify)]
    return sorted(pairs, key=lambda pair: pair.rank)


def _can_belong(image: Side, label: Side) -> bool:
    """Return whether the splits of two folders agree."""
    first, second = (normalize_split(get_split(side.parts)) for side in (image, label))
    return first == second or not (first and second)


def _match(image: Side, label: Side, classify: Classify) -> Iterator[Pair]:
    """Yield the pairing of two sets for every ending of the labels that pairs most of them."""
    folders = len(image.files[0].wild) == len(label.files[0].wild) > 0
    is_same = image.parts == label.parts
    for label_ending, is_label_constant in label.endings:
        by_label = label.keys(label_ending, is_label_constant, with_folders=folders)
        best: tuple[int, int, str, bool] | None = None
        for ending, is_constant in image.endings:
            if is_constant != is_label_constant or (is_same and ending == label_ending and _overlap(image, label)):
                continue
            by_image = image.keys(ending, is_constant, with_folders=folders)
            hits = sum(key in by_image for key in sample(list(by_label), _PROBED))
            if hits and (best is None or (hits, -len(ending)) > best[:2]):
                best = hits, -len(ending), ending, is_constant
        if best and best[0] >= _LIKELY * min(len(by_label), _PROBED, len(image.files)):
            yield from _build(image, (best[2], best[3]), label, (label_ending, is_label_constant), folders, classify)


def _overlap(image: Side, label: Side) -> bool:
    return bool(set(image.suffixes) & set(label.suffixes))


def _build(
    image: Side, ending: tuple[str, bool], label: Side, label_ending: tuple[str, bool], folders: bool,
    classify: Classify,
) -> Iterator[Pair]:  # fmt: skip
    by_label = label.keys(*label_ending, with_folders=folders)
    masks = {file.path for file in by_label.values()}
    by_image = {key: file for key, file in image.keys(*ending, with_folders=folders).items() if file.path not in masks}
    matched = tuple((by_image[key], file) for key, file in by_label.items() if key in by_image)
    if len(matched) < max(1.0, _LIKELY * min(len(by_image), len(by_label))):
        return
    found = [[classify(file.path) for file in sample(files, 3)] for files in zip(*matched, strict=True)]
    is_drawn = LABEL in found[0]  # or drawings of few colours, if the folder's name says so
    if PICTURE in found[1] or (is_drawn and score_pictures(image.parts[-1:]) < 2):
        return
    kinds = (PICTURE in found[0] and not is_drawn) + (LABEL in found[1])
    sides = [
        replace(side, ending=chosen[0], is_constant=chosen[1])
        for side, chosen in ((image, ending), (label, label_ending))
    ]
    score = _score(sides[0], sides[1])
    yield Pair(sides[0], sides[1], matched, len(by_image) - len(matched), len(by_label) - len(matched), score, kinds)


def _score(image: Side, label: Side) -> int:
    own = len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], zip(image.parts, label.parts, strict=False))))
    score = score_pictures([*image.parts[own:], image.ending]) + score_labels([*label.parts[own:], label.ending])
    if image.parts and label.parts and label.parts[-1] != image.parts[-1]:
        first, second = image.parts[-1], label.parts[-1]
        score += 2 * (second.startswith(first) and bool(split_words(second[len(first) :])))
    return score


def join_depths(pairs: Sequence[Pair]) -> Pair:
    """Return the first pair, with those of the folders below its folders if they differ in nothing else."""
    best = pairs[0]
    start, other_start = best.pictures.parts, best.labels.parts
    below = [
        pair
        for pair in pairs
        if pair.pictures.parts == start + (rest := pair.pictures.parts[len(start) :])
        and pair.labels.parts == other_start + rest
        and pair.form == best.form
    ]
    by_folder = {pair.pictures.parts: pair for pair in reversed(below)}
    if len(by_folder) == 1 or start == other_start or any("*" in part for part in (*start, *other_start)):
        return best
    joined = [by_folder[parts] for parts in sorted(by_folder)]
    return replace(
        best,
        pictures=replace(best.pictures, parts=(*start, "**")),
        labels=replace(best.labels, parts=(*other_start, "**")),
        matched=tuple(files for pair in joined for files in pair.matched),
        lone_pictures=sum(pair.lone_pictures for pair in joined),
        lone_labels=sum(pair.lone_labels for pair in joined),
    )
