"""Finds the images of a folder and the label file of each."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cliptrase_d2.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp")
LABEL_SUFFIXES = (".png", ".tif", ".tiff")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FoundFiles:
    """What two folders hold.

    Attributes:
        records: one per image, in natural order: ``file_name`` and, with labels, ``sem_seg_file_name``.
        images_without_label, labels_without_image: files that have no partner.
    """

    records: list[dict[str, str]]
    images_without_label: tuple[Path, ...] = ()
    labels_without_image: tuple[Path, ...] = ()


def find_files(images: Path, labels: Path | None, if_missing: str = "Check it.") -> FoundFiles:
    """List a folder of images and, if there is one, the folder of labels with the same stems.

    Args:
        images: folder, or a part of one as a pattern such as ``images/val_*``.
        labels: the same for the labels.
        if_missing: what to do where a folder is not there, for the message.
    Raises:
        InputError: a folder that is missing or holds nothing usable, or two files of one stem.
    """
    if labels is not None and labels.resolve() == images.resolve():
        raise InputError(labels, "images and labels in one folder", "a folder of their own", "Move the labels.")
    image_of = _files_by_stem(images, IMAGE_SUFFIXES, "image", if_missing)
    if labels is None:
        return FoundFiles([{"file_name": str(path)} for path in image_of.values()])
    label_of = _files_by_stem(labels, LABEL_SUFFIXES, "label file", if_missing)
    return FoundFiles(
        records=[
            {"file_name": str(image_of[stem]), "sem_seg_file_name": str(label_of[stem])}
            for stem in image_of
            if stem in label_of
        ],
        images_without_label=tuple(path for stem, path in image_of.items() if stem not in label_of),
        labels_without_image=tuple(path for stem, path in label_of.items() if stem not in image_of),
    )


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Sort key under which img2 comes before img10."""
    parts = re.split(r"(\d+)", name)  # text and digits alternate, so equal places compare as equal types
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name


def _files_by_stem(place: Path, suffixes: Sequence[str], what: str, if_missing: str) -> dict[str, Path]:
    is_pattern = "*" in place.name and not place.is_dir()
    folder, pattern = (place.parent, place.name) if is_pattern else (place, "*")
    allowed = f"{what}s ending in {' '.join(suffixes)} (any case), directly in the folder"
    if not folder.is_dir():
        raise InputError(folder, "not a folder" if folder.exists() else "no such folder", allowed, if_missing)
    found: dict[str, Path] = {}
    others: list[str] = []
    for path in sorted(folder.glob(pattern), key=lambda path: natural_key(path.name)):
        if path.name.startswith(".") or path.is_dir():
            continue
        if path.suffix.lower() not in suffixes:
            others.append(path.name)
        elif path.stem in found:
            raise InputError(
                folder, f"two {what}s of one stem, {found[path.stem].name} and {path.name}", "one each", "Remove one."
            )
        else:
            found[path.stem] = path
    if not found:
        came = f"no {what}" + (f" among {len(others)} files, such as {others[0]}" if others else "")
        raise InputError(place, came, allowed, "Check the path, or convert the files.")
    if others:
        logger.warning("%s: %d files are no %ss and left out: %s", place, len(others), what, ", ".join(others[:3]))
    return found
