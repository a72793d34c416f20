"""Lists the images of a folder and pairs them with their label files."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.user_files import check_name, read_text

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp")
LABEL_SUFFIXES = (".png", ".tif", ".tiff")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DatasetFiles:
    """The images of a data set, paired with their label files.

    Attributes:
        records: one for each pair, in natural order: ``file_name`` and, in a data set with labels,
            ``sem_seg_file_name``.
        unpaired: every other file and the partner that it lacks, "image" or "label file".
    """

    records: list[dict[str, str]]
    unpaired: tuple[tuple[Path, str], ...] = ()


def find_files(
    images: Path,
    labels: Path | None,
    if_missing: str = "Check the path.",
    *,
    image_suffix: str = "",
    label_suffix: str = "",
    image_list: Path | None = None,
) -> DatasetFiles:
    """List the images of a folder and, if there are labels, the label files with the same stems.

    Args:
        images: folder, or a pattern such as ``images/val_*`` or ``images/*/*`` for parts of one or more folders.
        labels: the same for the labels; None for a data set without labels.
        if_missing: what to do if a folder does not exist, for the error message.
        image_suffix: ending of every image stem that its label file does not share. Other files are ignored.
        label_suffix: the same for the labels.
        image_list: text file with one image per line: a stem, a name or a path, alone or followed by its label. Other
            files are ignored. None for all files.
    Raises:
        InputError: a folder does not exist or has no usable files, two files have the same stem, a name is not
            UTF-8, the list cannot be read, or a listed stem has no image.
    """
    if labels is not None and os.path.realpath(labels) == os.path.realpath(images):
        raise InputError(labels, "images and labels in one folder", "Move the labels to a folder of their own.")
    image_by_stem = _list_by_stem(images, image_suffix, IMAGE_SUFFIXES, "image", if_missing)
    if image_list is not None:
        image_by_stem = _select_listed(image_by_stem, image_list, label_suffix, if_missing)
    if labels is None:
        return DatasetFiles([{"file_name": str(path)} for path in image_by_stem.values()])
    label_by_stem = _list_by_stem(labels, label_suffix, LABEL_SUFFIXES, "label file", if_missing)
    if image_list is not None:
        label_by_stem = {stem: path for stem, path in label_by_stem.items() if stem in image_by_stem}
    return DatasetFiles(
        records=[
            {"file_name": str(path), "sem_seg_file_name": str(label_by_stem[stem])}
            for stem, path in image_by_stem.items()
            if stem in label_by_stem
        ],
        unpaired=(
            *((path, "image") for stem, path in label_by_stem.items() if stem not in image_by_stem),
            *((path, "label file") for stem, path in image_by_stem.items() if stem not in label_by_stem),
        ),
    )


def _natural_key(name: str) -> tuple[list[str | int], str]:
    """Return a sort key that puts img2 before img10."""
    parts = re.split(r"(\d+)", name)  # text and digits alternate, so only equal types are compared
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], name


def _select_listed(
    image_by_stem: dict[str, Path], image_list: Path, label_ending: str, if_missing: str
) -> dict[str, Path]:
    """Keep the images that a file lists. Their order does not change.

    Args:
        image_by_stem: all images.
        image_list: text file with one image per line, see ``_find_listed``.
        label_ending: of the stems of label files, which ``image_by_stem`` does not have.
        if_missing: what to do about an image that does not exist.
    """
    lines = list(dict.fromkeys(filter(None, map(str.strip, read_text(image_list).splitlines()))))
    if not lines:
        raise InputError(image_list, "no names", "List one image per line.")
    by_name = {name: stem for stem, path in image_by_stem.items() for name in (path.stem, path.name)}
    found = {line: _find_listed(line, image_by_stem, by_name, (image_list, label_ending)) for line in lines}
    missing = [line for line in lines if found[line] is None]
    if missing:
        got = f"{len(missing)} of {len(lines)} lines without an image, such as {missing[0]!r}"
        allowed = "a stem, a file name or a path, alone or with the path of its label"
        raise InputError(image_list, got, if_missing, allowed=allowed)
    stems = set(found.values())
    return {stem: path for stem, path in image_by_stem.items() if stem in stems}


def _find_listed(
    line: str, image_by_stem: Mapping[str, Path], by_name: Mapping[str, str], source: tuple[Path, str]
) -> str | None:
    """Return the stem of the image in a line of a list; None without one.

    A line is a stem, which may contain spaces; the name or the end of the path of an image; or an image and its label.

    Args:
        line: of the list.
        image_by_stem: all images.
        by_name: stem of each image by its file name, with and without the suffix.
        source: the list, and the ending of the stems of label files.
    Raises:
        InputError: an image and a label with different stems, which would not be paired.
    """
    if line in image_by_stem:
        return line
    stem = by_name.get(line.rpartition("/")[2])
    if stem is not None:
        path, end = image_by_stem[stem], f"/{line.lstrip('/')}"
        return stem if any(f"/{name.as_posix()}".endswith(end) for name in (path, path.with_suffix(""))) else None
    image, _, label = line.replace("\t", " ").partition(" ")
    if Path(label).suffix.lower() not in LABEL_SUFFIXES:
        return None
    stem = _find_listed(image, image_by_stem, by_name, source)
    if stem is not None and stem != Path(label.strip()).stem.removesuffix(source[1]):
        fix = "Give both files the same stem, or set image_suffix and label_suffix to the endings that differ."
        raise InputError(source[0], f"an image and a label with different stems, {line!r}", fix)
    return stem


def _list_by_stem(place: Path, ending: str, suffixes: Sequence[str], kind: str, if_missing: str) -> dict[str, Path]:
    """List the files of a folder or pattern by their stems without ``ending``, in natural order."""
    folder, pattern = _split_pattern(place)
    if not os.path.isdir(folder):
        raise InputError(folder, "not a folder" if os.path.exists(folder) else "no such folder", if_missing)
    try:
        paths = sorted(folder.glob(pattern), key=lambda path: _natural_key(path.name))
    except (OSError, ValueError) as error:  # no permission to read the folder; a pattern such as "**x"
        raise InputError(place, f"cannot be listed ({error})", "Check the path.") from error
    by_stem: dict[str, Path] = {}
    ignored: list[str] = []
    for path in paths:
        if path.name.startswith(".") or path.is_dir() or not path.stem.endswith(ending):
            continue
        check_name(path)
        stem = path.stem.removesuffix(ending)
        if path.suffix.lower() not in suffixes:
            ignored.append(path.name)
        elif stem in by_stem:
            got = f"two {kind}s with the same stem, {by_stem[stem].name} and {path.name}"
            raise InputError(folder, got, "Remove one.")
        else:
            by_stem[stem] = path
    if not by_stem:
        got = f"no {kind}" + (f" among {len(ignored)} files, such as {ignored[0]}" if ignored else "")
        allowed = f"{kind}s directly in the folder, ending in {' '.join(ending + suffix for suffix in suffixes)}"
        raise InputError(place, got, "Check the path, or convert the files.", allowed=allowed)
    if ignored:
        logger.warning("%s: ignored %d files that are not %ss: %s", place, len(ignored), kind, ", ".join(ignored[:3]))
    return by_stem


def _split_pattern(place: Path) -> tuple[Path, str]:
    """Split a path before its first part with a ``*``."""
    if not os.path.isdir(place):  # a folder may have a "*" in its name
        for index, part in enumerate(place.parts):
            if "*" in part:
                return Path(*place.parts[:index]), "/".join(place.parts[index:])
    return place, "*"
