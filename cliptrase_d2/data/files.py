"""Finds the images of a folder and the label file of each."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.user_files import check_name, read_text

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
    image_list: Path | None = None,
) -> FoundFiles:
    """List a folder of images and, if there is one, the folder of labels with the same stems.

    Args:
        images: folder, or a part of one or of several as a pattern such as ``images/val_*`` or ``images/*/*``.
        labels: the same for the labels.
        if_missing: what to do where a folder is not there, for the message.
        image_suffix: end of the stem of every image, which its label file does not share; other files are passed over.
        label_suffix: the same for the labels.
        image_list: text file of stems, one per line; files of other stems are passed over. None for all.
    Raises:
        InputError: a folder that is missing or holds nothing usable, two files of one stem, a name that is not in
            UTF-8, a list that cannot be read, or no image of a stem in it.
    """
    if labels is not None and os.path.realpath(labels) == os.path.realpath(images):
        raise InputError(labels, "images and labels in one folder", "Move the labels.", allowed="a folder of their own")
    image_of = _files_by_stem(images, image_suffix, IMAGE_SUFFIXES, "image", if_missing)
    if image_list is not None:
        image_of = _listed(image_of, image_list, images, if_missing)
    if labels is None:
        return FoundFiles([{"file_name": str(path)} for path in image_of.values()])
    label_of = _files_by_stem(labels, label_suffix, LABEL_SUFFIXES, "label file", if_missing)
    if image_list is not None:
        label_of = {stem: path for stem, path in label_of.items() if stem in image_of}
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


def _listed(image_of: dict[str, Path], image_list: Path, images: Path, if_missing: str) -> dict[str, Path]:
    """The images that a file lists, in the order of their names."""
    stems = set(read_text(image_list).split())
    missing = sorted(stems - set(image_of), key=natural_key)
    if missing or not stems:
        got = f"{len(missing)} of {len(stems)} stems without an image, such as {missing[0]}" if missing else "no stem"
        raise InputError(image_list, got, if_missing, allowed=f"stems of images in {images}, one per line")
    return {stem: path for stem, path in image_of.items() if stem in stems}


def _files_by_stem(place: Path, ending: str, suffixes: Sequence[str], what: str, if_missing: str) -> dict[str, Path]:
    """The files of a place by their stem without its ending, in natural order of their names."""
    folder, pattern = _folder_and_pattern(place)
    where_from = "directly in the folder" if pattern == "*" else f"called {pattern}"
    allowed = f"{what}s ending in {' '.join(ending + suffix for suffix in suffixes)} (any case), {where_from}"
    if not os.path.isdir(folder):
        raise InputError(
            folder, "not a folder" if os.path.exists(folder) else "no such folder", if_missing, allowed=allowed
        )
    found: dict[str, Path] = {}
    others: list[str] = []
    try:
        listed = sorted(folder.glob(pattern), key=lambda path: natural_key(path.name))
    except (OSError, ValueError) as error:  # a folder that may not be read; a pattern such as "**x"
        raise InputError(place, f"it cannot be listed ({error})", "Check the path.", allowed=allowed) from error
    for path in listed:
        if path.name.startswith(".") or path.is_dir() or not path.stem.endswith(ending):
            continue
        check_name(path)
        stem = path.stem.removesuffix(ending)
        if path.suffix.lower() not in suffixes:
            others.append(path.name)
        elif stem in found:
            raise InputError(
                folder,
                f"two {what}s of one stem, {found[stem].name} and {path.name}",
                "Remove one.",
                allowed="one each",
            )
        else:
            found[stem] = path
    if not found:
        got = f"no {what}" + (f" among {len(others)} files, such as {others[0]}" if others else "")
        raise InputError(place, got, "Check the path, or convert the files.", allowed=allowed)
    if others:
        logger.warning("%s: %d files are no %ss and left out: %s", place, len(others), what, ", ".join(others[:3]))
    return found


def _folder_and_pattern(place: Path) -> tuple[Path, str]:
    """The folder before the first part with a ``*``, and the rest."""
    if os.path.isdir(place):
        return place, "*"
    for number, part in enumerate(place.parts):
        if "*" in part:
            return Path(*place.parts[:number]), "/".join(place.parts[number:])
    return place, "*"
