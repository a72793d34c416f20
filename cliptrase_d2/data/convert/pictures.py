"""The pictures of a source: safe paths, folders, sizes and class names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from cliptrase_d2.data.convert.json_files import require_unique
from cliptrase_d2.data.files import IMAGE_SUFFIXES
from cliptrase_d2.data.images import MAX_PIXELS, open_image
from cliptrase_d2.utils.errors import InputError, suggest
from cliptrase_d2.utils.user_files import CONTROL_CHARACTER
from cliptrase_d2.vocabulary import Vocabulary

_ORIENTATION = 0x0112  # tag of EXIF
_MAX_LISTED = 3


def clean_name(name: str, where: object) -> str:
    r"""Return the relative path of a picture with "/" between its parts.

    Args:
        name: as the source spells it, perhaps with "\" of Windows.
        where: place in the source, for the message.
    Raises:
        InputError: the path is empty or absolute, leaves its folder, or has control characters.
    """
    parts = name.replace("\\", "/").split("/")
    clean = os.path.normpath("/".join(parts)) if all(parts[:1]) else "/"
    is_drive = len(parts[0]) == 2 and parts[0][1] == ":"
    if is_drive or clean.startswith(("/", "../")) or clean in (".", "..") or CONTROL_CHARACTER.search(name):
        got = f"the picture {name[:80]!r}, which is not a path below the folder of pictures"
        raise InputError(where, got, "Write a relative path without '..', and name the folder with --images.")
    return clean


def find_root(names: Sequence[str], images: Path | None, candidates: Iterable[Path], where: object) -> Path:
    """Return the folder of the pictures.

    Args:
        names: relative paths of the pictures.
        images: the folder that the user names; None to try ``candidates``.
        candidates: possible folders.
        where: source, for the message.
    Raises:
        InputError: no folder has the first of the pictures, or ``images`` is not a folder.
    """
    if images is not None:
        if not images.is_dir():
            raise InputError("--images", f"{str(images)!r}, which is not a folder", "Check the path.")
        return images
    folders = list(dict.fromkeys(folder for folder in candidates if folder.is_dir()))
    for folder in folders:
        if any(is_file(folder / name) for name in names[:_MAX_LISTED]):
            return folder
    got = f"no picture {names[0]!r} in {', '.join(map(str, folders))}" if names else "no pictures"
    raise InputError(where, got, "Name the folder of the pictures with --images.")


def is_file(path: Path) -> bool:
    """Return whether a file exists; False for an impossible name."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def check_pictures(names: Sequence[str], folder: Path, where: object) -> None:
    """Raise unless all pictures exist, can belong to a data set, and have labels of different names.

    Args:
        names: relative paths of the pictures.
        folder: of the pictures.
        where: source, for the message.
    Raises:
        InputError: one does not.
    """
    missing = [name for name in names if not is_file(folder / name)]
    if missing:
        listed = ", ".join(missing[:_MAX_LISTED]) + (", ..." if len(missing) > _MAX_LISTED else "")
        got = f"{len(missing):,} of {len(names):,} pictures are not in {folder}: {listed}"
        raise InputError(where, got, "Add them, or name their folder with --images.")
    require_unique(names, "annotated pictures with the path", where, "Remove one.")
    by_label: dict[PurePosixPath, str] = {}
    for name in names:
        path = PurePosixPath(name)
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
            raise InputError(folder / name, "not a picture", "Convert or rename it.", allowed=" ".join(IMAGE_SUFFIXES))
        other = by_label.setdefault(path.with_suffix(""), name)
        if other != name:
            raise InputError(folder, f"two pictures with the same stem, {other} and {name}", "Rename or remove one.")


def read_size(path: Path) -> tuple[tuple[int, int], bool]:
    """Return the (height, width) of a picture, and whether EXIF data turn it by 90 degrees. Do not decode its pixels.

    Raises:
        InputError: the picture is broken or too large.
    """
    with open_image(path) as image:
        width, height = image.size
        is_turned = image.getexif().get(_ORIENTATION) in (5, 6, 7, 8)
        if is_turned and image.format != "TIFF":  # Pillow turns the size of TIFF files itself
            width, height = height, width
    if not 0 < width * height <= MAX_PIXELS:
        got = f"{width:,} x {height:,} pixels"
        raise InputError(path, got, "Divide the picture into tiles first.", allowed=f"at most {MAX_PIXELS:,} pixels")
    return (height, width), is_turned


def check_size(path: Path, stated: tuple[int, int] | None, where: object) -> tuple[int, int]:
    """Return the (height, width) of a picture.

    Args:
        path: of the picture.
        stated: height and width in the source; None if it states none.
        where: place in the source, for the message.
    Raises:
        InputError: the sizes differ, or the picture is broken.
    """
    size, is_turned = read_size(path)
    if stated is not None and stated != size:
        got = f"a size of {stated[1]} x {stated[0]} pixels, but the picture {path} has {size[1]} x {size[0]}"
        fix = "Check that the two belong together."
        if is_turned and stated == size[::-1]:
            got += " after its EXIF rotation"
            fix = "Store the picture without EXIF rotation, and label it again."
        raise InputError(where, got, fix)
    return size


def list_classes(
    names: Sequence[str], given: tuple[str, ...] | None, where: object
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Return the classes in order, and the index of each name of the source.

    Args:
        names: of the source, in its order, each once.
        given: the user's class names, "a;b" for synonyms; None for ``names``.
        where: source of the names, for the message.
    Raises:
        InputError: there are no classes or too many, or a name of the source is not among the user's.
    """
    if given is None:
        if not names:
            raise InputError(where, "no classes", "Export the labels again, or check the path.")
        return tuple(names), {name: index for index, name in enumerate(names)}
    vocabulary = Vocabulary.parse(given, where="--classes", allow_commas=True)
    by_word = dict(zip(vocabulary.prompts, vocabulary.class_index, strict=True))
    if unknown := next((name for name in names if name.strip() not in by_word), None):
        fix = suggest(unknown, by_word, "Add it to --classes; 'a;b' are synonyms of one class.")
        raise InputError(where, f"the class {unknown!r}, which is not in --classes", fix)
    return tuple(given), {name: by_word[name.strip()] for name in names}
