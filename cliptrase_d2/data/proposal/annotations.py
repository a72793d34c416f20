"""Annotations in other forms than label files: JSON of COCO, LabelMe and others, and one file per label."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cliptrase_d2.data.proposal.inventory import Inventory

PANOPTIC, INSTANCES, LABELME = "COCO panoptic", "COCO instances", "LabelMe"
_LABEL_STUDIO = re.compile(r"task-\d+-annotation-\d+-by-.*-tag-.*-\d+\.(png|npy)")
_PER_FOLDER = 3  # JSON files that are opened
_MAX_OPENED = 60
_MAX_PARSED = 2**26  # bytes
_HEAD = 2**16  # bytes of a larger file


@dataclass(frozen=True)
class Annotations:
    """Files of annotations.

    Attributes:
        kind: the tool or format.
        paths: relative to the root; not all of them were opened.
    """

    kind: str
    paths: tuple[str, ...]


def find_annotations(inventory: Inventory) -> list[Annotations]:
    """Return the annotations of a folder. Of many JSON files in one folder, a few are opened."""
    found: dict[str, list[str]] = {}
    by_folder: dict[str, list[str]] = {}
    for path in inventory.paths((".json",)):
        by_folder.setdefault(path.rpartition("/")[0], []).append(path)
    opened = 0
    for paths in by_folder.values():
        kinds = {}
        for path in paths[:_PER_FOLDER]:
            if opened < _MAX_OPENED:
                opened += 1
                kinds[path] = _classify(inventory, path)
        for path, kind in kinds.items():
            if kind == LABELME:
                found.setdefault(kind, []).extend(path for path in paths if path not in found.get(kind, ()))
                break
            if kind:
                found.setdefault(kind, []).append(path)
    studio = [path for path in inventory.paths((".png", ".npy")) if _LABEL_STUDIO.fullmatch(path.rpartition("/")[2])]
    if studio:
        found["Label Studio"] = studio
    return [Annotations(kind, tuple(paths)) for kind, paths in found.items()]


def _classify(inventory: Inventory, path: str) -> str:
    """Return the kind of a JSON file; "" for another one."""
    file = inventory.root / path
    try:
        if file.stat().st_size > _MAX_PARSED:
            with file.open("rb") as stream:
                return _classify_text(stream.read(_HEAD).decode(errors="replace"))
        content: Any = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):  # no JSON
        return ""
    if not isinstance(content, Mapping):
        return ""
    if isinstance(content.get("shapes"), list):
        return LABELME
    annotations = content.get("annotations")
    if not isinstance(annotations, list) or not isinstance(content.get("categories"), list):
        return ""
    first = annotations[0] if annotations and isinstance(annotations[0], Mapping) else {}
    return PANOPTIC if "segments_info" in first else INSTANCES if "image_id" in first else ""


def _classify_text(start: str) -> str:
    """Return the kind of a large JSON file from its start."""
    if '"segments_info"' in start:
        return PANOPTIC
    return INSTANCES if re.search(r'"(annotations|categories|images)"', start) else ""
