"""COCO's panoptic format: PNG files of segment ids, and one JSON file with the category of each segment."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from cliptrase_d2.utils.errors import InputError, first_line, suggest
from cliptrase_d2.utils.user_files import read_text
from cliptrase_d2.vocabulary import Vocabulary


def map_categories(path: Path, vocabulary: Vocabulary) -> dict[int, int]:
    """Return the label map of the categories of a panoptic JSON file: category id -> index of the class of its name.

    Args:
        path: JSON file with ``categories``.
        vocabulary: the classes. A synonym stands for its class.
    Raises:
        InputError: the file is not panoptic JSON, or its categories and the classes are not the same.
    """
    indices = {word: index for index, words in enumerate(vocabulary.words) for word in words}
    categories = {entry["name"]: entry["id"] for entry in _read(path)["categories"]}
    if unknown := [name for name in categories if name not in indices]:
        got = f"{len(unknown)} of {len(categories)} categories are no classes, such as {unknown[0]!r}"
        fix = suggest(unknown[0], indices, "Add them to the class list, or set label_map: {category id: class index}.")
        raise InputError(path, got, fix, allowed=", ".join(vocabulary.classes))
    return {identity: indices[name] for name, identity in categories.items()}


def add_segments(records: Sequence[Mapping[str, Any]], path: Path) -> list[dict[str, Any]]:
    """Return the records with ``segments_info`` in Detectron2's form: ``id`` and ``category_id`` of each segment.

    Args:
        records: with ``sem_seg_file_name``.
        path: the panoptic JSON file.
    Raises:
        InputError: the file is not panoptic JSON, or has no entry for a label file.
    """
    segments = {Path(entry["file_name"]).name: entry["segments_info"] for entry in _read(path)["annotations"]}
    names = [Path(record["sem_seg_file_name"]).name for record in records]
    if missing := [name for name in names if name not in segments]:
        got = f"no annotation of {len(missing)} of {len(names)} label files, such as {missing[0]}"
        raise InputError(path, got, "Check that the JSON file belongs to the folder of labels.")
    return [{**record, "segments_info": segments[name]} for record, name in zip(records, names, strict=True)]


def _read(path: Path) -> dict[str, Any]:
    state = path.stat() if path.is_file() else None
    return _parse(path, state.st_size if state else 0, state.st_mtime_ns if state else 0)


@lru_cache(maxsize=1)
def _parse(path: Path, size: int, modified: int) -> dict[str, Any]:
    """Read a panoptic JSON file; its size and its time of change in nanoseconds only tell calls apart.

    Returns:
        ``categories`` and ``annotations``, in which only the fields that this module reads are kept.
    Raises:
        InputError: the file does not exist or is not panoptic JSON.
    """
    try:
        content = json.loads(read_text(path))
        return {
            "categories": [{"id": _to_int(entry["id"]), "name": str(entry["name"])} for entry in content["categories"]],
            "annotations": [
                {
                    "file_name": str(entry["file_name"]),
                    "segments_info": [
                        {"id": _to_int(segment["id"]), "category_id": _to_int(segment["category_id"])}
                        for segment in entry["segments_info"]
                    ],
                }
                for entry in content["annotations"]
            ],
        }
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        got = f"not COCO's panoptic JSON ({type(error).__name__}: {first_line(error)})"
        allowed = "categories, and annotations with file_name and segments_info"
        raise InputError(path, got, "Check the path.", allowed) from error


def _to_int(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**31:
        raise ValueError(f"{str(value)[:40]!r} is no identifier")
    return value
