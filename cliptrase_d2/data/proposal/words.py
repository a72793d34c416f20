"""Words in the names of folders and files: pictures, labels, splits."""

from __future__ import annotations

import re
from collections.abc import Iterable


def _list(words: str) -> frozenset[str]:
    return frozenset(words.split())


_PICTURES = _list(
    "images image img imgs jpegimages imgdir rgb pictures picture photos photo pics input inputs leftimgbit left "
    "stills raw original originals scenes"
)
_LABELS = _list(
    "labels label masks mask annotations annotation annot anns ann anndir gt gtfine groundtruth truth segmentation "
    "segmentations segmentationclass seg segs semantic semantics target targets labeled labelled machine ids"
)
# Files beside the labels that are not labels of classes.
_OTHERS = _list(
    "instance instances instanceids object objects color colors colour colours vis viz visualization superpixels "
    "depth human parts edges edge disparity overlay overlays preview coarse gtcoarse colormap colormaps colourmaps"
)
_SPLITS = {"val": 4, "valid": 4, "validation": 4, "dev": 4, "test": 2, "testing": 2, "train": 1, "training": 1}
_NO_SPLIT = 3
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def count(number: int, noun: str) -> str:
    """Return a number with its noun, such as "1 picture" or "2,000 pictures"."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def split_words(name: str) -> list[str]:
    """Return the words of a name in lower case: "JPEGImages_val2017" has jpeg, images and val."""
    return [word.lower() for word in _WORD.findall(name)]


def _letters(name: str) -> str:
    return re.sub("[^a-z]", "", name.lower())


def is_role(name: str) -> bool:
    """Return whether a folder's name says that it has pictures or labels."""
    words = {*split_words(name), _letters(name)}
    return not words.isdisjoint(_PICTURES | _LABELS | _OTHERS) or any(
        word.endswith(("annot", "labels", "masks", "images")) for word in words
    )


def get_common_start(names: Iterable[str]) -> str:
    """Return the common start of names, up to a number: "img_" of img_1 and img_12."""
    names = list(names)
    low, high = min(names), max(names)
    length = next((index for index, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low))
    return low[:length].rstrip("0123456789")


def get_split(parts: Iterable[str]) -> str:
    """Return the part that names a split, such as "val2017"; "" for none."""
    for part in parts:
        if any(word in _SPLITS or word.removesuffix("annot") in _SPLITS for word in split_words(part)):
            return part
    return ""


def normalize_split(part: str) -> str:
    """Return the split that a part names, such as "val" for "val2017" and "valannot"; "" for none."""
    words = [word.removesuffix("annot") for word in split_words(part)]
    return next((word for word in words if word in _SPLITS), "")


def rank_split(part: str) -> int:
    """Return how suitable a split is for an evaluation; larger is better."""
    return _SPLITS.get(normalize_split(part), _NO_SPLIT)


def score_pictures(parts: Iterable[str]) -> int:
    """Return how much the parts of a path say that its files are pictures."""
    score = 0
    for part in parts:
        words = set(split_words(part))
        score = max(score, 2 if _letters(part) in _PICTURES else 1 if words & _PICTURES else 0)
        score -= 2 * bool(words & _OTHERS)
    return score


def score_labels(parts: Iterable[str]) -> int:
    """Return how much the parts of a path, and the ending of the files, say that the files are labels of classes."""
    score = 0
    for part in parts:
        words = set(split_words(part))
        named = _letters(part) in _LABELS or _letters(part).endswith("annot")
        score = max(score, 2 if named else 1 if words & _LABELS else 0)
        score -= 2 * bool(words & _OTHERS)
        score += 2 * part.endswith("_labelTrainIds")
    return score
