"""Labels whose values are numbered in each file anew: the folders of labelme_json_to_dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cliptrase_d2.utils.errors import InputError, suggest
from cliptrase_d2.utils.user_files import read_text
from cliptrase_d2.vocabulary import Vocabulary

_FILE = "label_names.txt"
UNLABELLED = ("_background_", "__ignore__")


def add_label_indices(
    records: Sequence[Mapping[str, Any]], vocabulary: Vocabulary, ignore_label: int
) -> list[dict[str, Any]]:
    """Return the records with ``label_indices`` where a list of names, ``label_names.txt``, is beside the label file.

    ``label_indices`` holds the class index or the ignore label of the values 0, 1, 2, …, that of
    ``_background_`` being the ignore label, unless a class has this name.

    Args:
        records: with ``sem_seg_file_name``.
        vocabulary: the classes. A synonym stands for its class.
        ignore_label: class index of pixels that are not scored.
    Raises:
        InputError: a name is no class.
    """
    indices = dict.fromkeys(UNLABELLED, ignore_label)
    indices |= {word: index for index, words in enumerate(vocabulary.words) for word in words}
    indices |= {name: index for index, name in enumerate(vocabulary.classes)}
    return [_add(record, indices) for record in records]


def _add(record: Mapping[str, Any], indices: Mapping[str, int]) -> dict[str, Any]:
    file = Path(record["sem_seg_file_name"]).with_name(_FILE)
    if not file.is_file():
        return dict(record)
    names = read_text(file).splitlines()
    if unknown := [name for name in names if name not in indices]:
        fix = suggest(unknown[0], indices, "Add it to the class list, or set label_map, which ignores this file.")
        raise InputError(file, f"the name {unknown[0]!r}, which is no class", fix)
    return {**record, "label_indices": [indices[name] for name in names]}
