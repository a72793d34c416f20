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


def find_files(
    images: Path,
    labels: Path | None,
    if_missing: str = "Check it.",
    *,
    image_suffix: str = "",
    label_suffix: str = "",
) -> FoundFiles:
    """List a folder of images and, if there is one, the folder of labels with the same stems.

    Args:
        images: folder, or a part of one or of several as a pattern such as ``images/val_*`` or ``images/*/*``.
        labels: the same for the labels.
        if_missing: what to do where a folder is not there, for the message.
        image_suffix: end of the stem of every image, which its label file does not share; other files are passed over.
        label_suffix: the same for the labels.
    Raises:
        InputError: a folder that is missing or holds nothing usable, or two files of one stem.
    """
    if labels is not None and labels.resolve() == images.resolve():
        raise InputError(labels, "images and labels in one folder", "a folder of their own", "Move the labels.")
    image_of = _files_by_stem(images, image_suffix, IMAGE_SUFFIXES, "image", if_missing)
    if labels is None:
        return FoundFiles([{"file_name": str(path)} for path in image_of.values()])
    label_of = _files_by_stem(labels, label_suffix, LABEL_SUFFIXES, "label file", if_missing)
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


def _files_by_stem(place: Path, ending: str, suffixes: Sequence[str], what: str, if_missing: str) -> dict[str, Path]:
    """The files of a place by their stem without its ending, in natural order of their names."""
    folder, pattern = _folder_and_pattern(place)
    where_from = "directly in the folder" if pattern == "*" else f"called {pattern}"
    allowed = f"{what}s ending in {' '.join(ending + suffix for suffix in suffixes)} (any case), {where_from}"
    if not folder.is_dir():
        raise InputError(folder, "not a folder" if folder.exists() else "no such folder", allowed, if_missing)
    found: dict[str, Path] = {}
    others: list[str] = []
    for path in sorted(folder.glob(pattern), key=lambda path: natural_key(path.name)):
        if path.name.startswith(".") or path.is_dir() or not path.stem.endswith(ending):
            continue
        stem = path.stem.removesuffix(ending)
        if path.suffix.lower() not in suffixes:
            others.append(path.name)
        elif stem in found:
            raise InputError(
                folder, f"two {what}s of one stem, {found[stem].name} and {path.name}", "one each", "Remove one."
            )
        else:
            found[stem] = path
    if not found:
        came = f"no {what}" + (f" among {len(others)} files, such as {others[0]}" if others else "")
        raise InputError(place, came, allowed, "Check the path, or convert the files.")
    if others:
        logger.warning("%s: %d files are no %ss and left out: %s", place, len(others), what, ", ".join(others[:3]))
    return found


def _folder_and_pattern(place: Path) -> tuple[Path, str]:
    """The folder before the first part with a ``*``, and the rest."""
    if place.is_dir():
        return place, "*"
    for number, part in enumerate(place.parts):
        if "*" in part:
            return Path(*place.parts[:number]), "/".join(place.parts[number:])
    return place, "*"
