"""Lists the images of a folder and pairs them with their label files."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.user_files import check_name, read_text

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp")
LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".npy")
_ANNOTATIONS = (".json", ".xml", ".parquet")  # that `cliptrase convert` may read

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


@dataclass(frozen=True)
class _File:
    """One file of a folder or pattern.

    Attributes:
        path: of the file.
        stem: of its name, without the ending that its partner does not share.
        wild: the parts of its path that the wildcards of the pattern stand for, without suffix and ending; "" for a
            folder.
    """

    path: Path
    stem: str
    wild: str


def find_files(
    images: Path,
    labels: Path | None,
    if_missing: str = "Check the path.",
    *,
    image_suffix: str = "",
    label_suffix: str = "",
    image_list: Path | None = None,
) -> DatasetFiles:
    """List the images of a folder and, if there are labels, the label files that belong to them.

    Files are paired by their stems. If stems repeat, or no stem has a partner, they are paired by the parts of their
    paths that the wildcards of the patterns stand for. Images and labels may be in one folder: every file that could be
    both is a label file.

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
    found = _list_files(images, image_suffix, IMAGE_SUFFIXES, "image", if_missing)
    targets = [] if labels is None else _list_files(labels, label_suffix, LABEL_SUFFIXES, "label file", if_missing)
    label_paths = {target.path for target in targets}
    if not (rest := [image for image in found if image.path not in label_paths]):
        fix = "Set label_suffix to the ending of the labels' stems, or use patterns such as images: data/*.jpg."
        raise InputError(images, "every image is also a label file", fix)
    key = "wild" if _is_paired_by_wildcards(rest, targets) else "stem"
    image_by_key = _index(rest, key, "image")
    if image_list is not None:
        image_by_key = _select_listed(image_by_key, image_list, label_suffix, if_missing)
    if labels is None:
        return DatasetFiles([{"file_name": str(path)} for path in image_by_key.values()])
    label_by_key = _index(targets, key, "label file")
    if image_list is not None:
        label_by_key = {stem: path for stem, path in label_by_key.items() if stem in image_by_key}
    return DatasetFiles(
        records=[
            {"file_name": str(path), "sem_seg_file_name": str(label_by_key[stem])}
            for stem, path in image_by_key.items()
            if stem in label_by_key
        ],
        unpaired=(
            *((path, "image") for stem, path in label_by_key.items() if stem not in image_by_key),
            *((path, "label file") for stem, path in image_by_key.items() if stem not in label_by_key),
        ),
    )


def _is_paired_by_wildcards(images: Sequence[_File], labels: Sequence[_File]) -> bool:
    """Return whether stems do not pair the files, but the wildcards of both patterns can."""
    groups = (images, labels) if labels else (images,)
    if not all(_is_distinct(file.wild for file in group) and all(file.wild for file in group) for group in groups):
        return False
    if not all(_is_distinct(file.stem for file in group) for group in groups):
        return True
    stems, wild = ([{getattr(file, key) for file in group} for group in groups] for key in ("stem", "wild"))
    return bool(labels) and not set.intersection(*stems) and bool(set.intersection(*wild))


def _is_distinct(names: Iterable[str]) -> bool:
    return max(Counter(names).values()) == 1


def _index(files: Sequence[_File], key: str, kind: str) -> dict[str, Path]:
    """Return the files by an attribute.

    Raises:
        InputError: two files have the same.
    """
    by_key: dict[str, Path] = {}
    for file in files:
        name = getattr(file, key)
        if (first := by_key.setdefault(name, file.path)) is not file.path:
            got = f"two {kind}s with the same stem, {first} and {file.path.name}"
            fix = "Remove one, or select files with a pattern such as *.jpg. Frames of many folders need */*."
            raise InputError(file.path.parent, got, fix)
    return by_key


def _natural_key(name: str) -> tuple[list[str | int], str]:
    """Return a sort key that puts img2 before img10."""
    parts = re.split(r"(\d+)", name)  # text and digits alternate, so only equal types are compared
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], name


def _select_listed(
    image_by_key: dict[str, Path], image_list: Path, label_ending: str, if_missing: str
) -> dict[str, Path]:
    """Keep the images that a file lists. Their order does not change.

    Args:
        image_by_key: all images.
        image_list: text file with one image per line, see ``_find_listed``.
        label_ending: of the stems of label files.
        if_missing: what to do about an image that does not exist.
    """
    lines = list(dict.fromkeys(filter(None, map(str.strip, read_text(image_list).splitlines()))))
    if not lines:
        raise InputError(image_list, "no names", "List one image per line.")
    by_name: dict[str, list[str]] = {}
    for key, path in image_by_key.items():
        for name in {path.stem, path.name}:
            by_name.setdefault(name, []).append(key)
    found = {line: _find_listed(line, image_by_key, by_name, (image_list, label_ending)) for line in lines}
    missing = [line for line in lines if found[line] is None]
    if missing:
        got = f"{len(missing)} of {len(lines)} lines without an image, such as {missing[0]!r}"
        allowed = "a stem, a file name or a path, alone or with the path of its label"
        raise InputError(image_list, got, if_missing, allowed=allowed)
    keys = set(found.values())
    return {key: path for key, path in image_by_key.items() if key in keys}


def _find_listed(
    line: str, image_by_key: Mapping[str, Path], by_name: Mapping[str, list[str]], source: tuple[Path, str]
) -> str | None:
    """Return the key of the image in a line of a list; None without one.

    A line is a key, such as a stem, which may contain spaces; the name or the end of the path of an image; or an image
    and its label.

    Args:
        line: of the list.
        image_by_key: all images.
        by_name: keys of the images with each file name, with and without the suffix.
        source: the list, and the ending of the stems of label files.
    Raises:
        InputError: several images end with the line, or it has an image and a label that would not be paired.
    """
    if line in image_by_key:
        return line
    if keys := by_name.get(line.rpartition("/")[2]):
        end = f"/{line.lstrip('/')}"
        matches = [
            key
            for key in keys
            if any(
                f"/{name.as_posix()}".endswith(end) for name in (image_by_key[key], image_by_key[key].with_suffix(""))
            )
        ]
        if len(matches) > 1:
            first, second = (image_by_key[key] for key in matches[:2])
            got = f"the line {line!r}, with which {len(matches)} images end, such as {first} and {second}"
            raise InputError(source[0], got, "Write more of the path.")
        if matches:
            return matches[0]
    image, _, label = line.replace("\t", " ").partition(" ")
    if Path(label).suffix.lower() not in LABEL_SUFFIXES:
        return None
    key = _find_listed(image, image_by_key, by_name, source)
    if key is not None and Path(key).name != (stem := Path(label.strip()).stem.removesuffix(source[1])) and key != stem:
        fix = "Give both files the same stem, or set image_suffix and label_suffix to the endings that differ."
        raise InputError(source[0], f"an image and a label with different stems, {line!r}", fix)
    return key


def _list_files(place: Path, ending: str, suffixes: Sequence[str], kind: str, if_missing: str) -> list[_File]:
    """List the files of a folder or pattern whose stems have an ending, in natural order."""
    folder, pattern = _split_pattern(place)
    if not os.path.isdir(folder):
        if folder.suffix.lower() in _ANNOTATIONS and os.path.exists(folder):
            raise InputError(folder, "annotations in one file", _convert(folder.parent))
        raise InputError(folder, "not a folder" if os.path.exists(folder) else "no such folder", if_missing)
    try:
        paths = sorted(folder.glob(pattern), key=lambda path: _natural_key(path.relative_to(folder).as_posix()))
    except (OSError, ValueError) as error:  # no permission to read the folder; a pattern such as "**x"
        raise InputError(place, f"cannot be listed ({error})", "Check the path.") from error
    expression = _compile(pattern, suffixes) if folder != place else None
    files: list[_File] = []
    ignored: list[str] = []
    for path in paths:
        if path.name.startswith(".") or path.is_dir() or not path.stem.endswith(ending):
            continue
        check_name(path)
        if path.suffix.lower() not in suffixes:
            ignored.append(path.name)
        else:
            wild = _get_wild_parts(path.relative_to(folder), expression, ending) if expression else ""
            files.append(_File(path, path.stem.removesuffix(ending), wild))
    is_annotated = any(Path(name).suffix.lower() in _ANNOTATIONS for name in ignored) and kind == "label file"
    if not files:
        got = f"no {kind}" + (f" among {len(ignored)} files, such as {ignored[0]}" if ignored else "")
        allowed = f"{kind}s directly in the folder, ending in {' '.join(ending + suffix for suffix in suffixes)}"
        fix = _convert(folder) if is_annotated else "Check the path, or convert the files."
        raise InputError(place, got, fix, allowed=allowed)
    if ignored:
        text = "%s: ignored %d files that are not %ss: %s%s"
        hint = f". {_convert(folder)}" if is_annotated else ""
        logger.warning(text, place, len(ignored), kind, ", ".join(ignored[:3]), hint)
    return files


def _convert(folder: Path) -> str:
    return f"If these are the annotations, run 'cliptrase convert {folder} OUTPUT_FOLDER', which writes label files."


def _split_pattern(place: Path) -> tuple[Path, str]:
    """Split a path before its first part with a ``*``."""
    if not os.path.isdir(place):  # a folder may have a "*" in its name
        for index, part in enumerate(place.parts):
            if "*" in part:
                return Path(*place.parts[:index]), "/".join(place.parts[index:])
    return place, "*"


def _compile(pattern: str, suffixes: Sequence[str]) -> re.Pattern[str]:
    """Return a regular expression for paths without suffix, whose groups are the wildcards ``*`` and ``**``.

    Args:
        pattern: of ``Path.glob``.
        suffixes: of the files, any of which the pattern may have.
    """
    *folders, name = pattern.split("/")
    if (suffix := Path(name).suffix) == ".*" or suffix.lower() in suffixes:
        name = name.removesuffix(suffix)
    start = "".join("(?:(.*)/)?" if part == "**" else f"{_translate(part)}/" for part in folders)
    return re.compile(start + ("(?:(.*)/)?([^/]*)" if name == "**" else _translate(name)))


def _translate(part: str) -> str:
    """Return the regular expression of one part of a pattern."""
    tokens = re.findall(r"\*|\?|\[!?\]?[^]]*\]|[^*?[]+|\[", part)
    special = {"*": "([^/]*)", "?": "[^/]"}
    return "".join(
        special.get(token) or (token.replace("[!", "[^", 1) if token[0] == "[" and len(token) > 1 else re.escape(token))
        for token in tokens
    )


def _get_wild_parts(path: Path, expression: re.Pattern[str], ending: str) -> str:
    """Return the parts of a path that wildcards stand for, without the suffix and the ending of its stem."""
    match = expression.fullmatch(path.with_suffix("").as_posix())
    parts = [part for part in match.groups() if part] if match else []
    if parts and path.stem.endswith(parts[-1]):
        parts[-1] = parts[-1].removesuffix(ending)
    return "/".join(filter(None, parts))
