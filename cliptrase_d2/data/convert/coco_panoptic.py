"""COCO's panoptic labels: a PNG file of segment ids for each picture, and a JSON file of their categories."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cliptrase_d2.data.convert import coco
from cliptrase_d2.data.convert.json_files import get_value, require_unique, shorten
from cliptrase_d2.data.convert.pictures import clean_name, find_root, is_file
from cliptrase_d2.data.convert.shapes import EMPTY
from cliptrase_d2.data.convert.source import IGNORED, Layer, Notes, Options, Picture, Source
from cliptrase_d2.data.images import open_image, verify_png
from cliptrase_d2.utils.errors import InputError

FORMAT = "coco-panoptic"
ORDER = "in no order: segments cannot overlap"
_VOID = 0


def recognises(content: Any) -> bool:
    """Return whether the content of a JSON file is COCO's, with panoptic segments."""
    is_coco = coco.recognises(content)
    return is_coco and any(isinstance(entry, dict) and "segments_info" in entry for entry in content["annotations"])


def read(content: Any, path: Path, options: Options) -> Source:
    """Read the segments of a file. Its PNG files are in a folder beside it, often of the same name.

    Args:
        content: of the file, recognised.
        path: of the file.
        options: of the user.
    Raises:
        InputError: an image, annotation or category is invalid, or a PNG file is missing.
    """
    classes, index_by_category = coco.read_categories(content, path, options)
    pictures, notes = dict(coco.read_images(content, path)), Notes()
    segments: dict[Any, tuple[str, dict[int, int]]] = {}
    for entry in content["annotations"]:
        where = (
            f"{path}: annotation of image {shorten(entry.get('image_id'))}" if isinstance(entry, dict) else str(path)
        )
        key = get_value(entry, "image_id", (int, str, float), where)
        if key not in pictures or key in segments:
            got = "an image_id that appears twice" if key in segments else "an image_id that is no image"
            raise InputError(where, got, "Correct the file.")
        name = clean_name(get_value(entry, "file_name", str, where), where)
        segments[key] = name, _read_segments(entry, index_by_category, where, options, notes)
    done = [replace(picture, shapes=segments.get(key, ())) for key, picture in pictures.items()]
    root = find_root([picture.name for picture in done], options.images, coco.list_folders(path), path)
    folder = _find_folder(path, root, [name for name, _ in segments.values()])
    return Source(FORMAT, root, classes, done, partial(draw, folder=folder), ORDER, notes)


def _read_segments(
    entry: Any, index_by_category: dict[Any, int], where: str, options: Options, notes: Notes
) -> dict[int, int]:
    """Return the class index of each segment id of an annotation, IGNORED for crowds."""
    found = get_value(entry, "segments_info", list, where)
    numbers = [get_value(segment, "id", int, where) for segment in found]
    require_unique(numbers, "segments with the id", where, "Correct the file.")
    indices = {}
    for number, segment in zip(numbers, found, strict=True):
        indices[number] = coco.get_index(segment, index_by_category, f"{where}, segment {number}")
        if segment.get("iscrowd") and not options.keep_crowds:
            notes.add(coco.CROWDS, where)
            indices[number] = IGNORED
    return indices


def _find_folder(path: Path, images: Path, names: list[str]) -> Path:
    """Return the folder of the PNG files. It is not that of the pictures, which may have the same names."""
    usual = path.parent / path.stem
    others = [entry for entry in sorted(path.parent.iterdir()) if entry.is_dir()] + [path.parent]
    found = [folder for folder in others if names and is_file(folder / names[0]) and not folder.samefile(images)]
    folders = [usual] if usual in found else found
    if len(folders) != 1:
        got = f"{len(folders)} folders beside it with {names[0]!r}" if names else "no annotations"
        raise InputError(path, got, f"Unpack the PNG files into {usual}.")
    missing = [name for name in names if not is_file(folders[0] / name)]
    if missing:
        raise InputError(folders[0], f"{len(missing)} of {len(names)} files are missing: {missing[0]}", "Add them.")
    return folders[0]


def draw(picture: Picture, size: tuple[int, int], notes: Notes, folder: Path) -> Iterator[Layer]:
    """Yield a layer for each segment. Id 0 is void.

    Args:
        picture: with the name of its PNG file and the class index of each segment id.
        size: its height and width.
        notes: on its segments.
        folder: of the PNG files.
    Raises:
        InputError: the PNG file is broken, has another size or an id that the JSON file lacks.
    """
    if not picture.shapes:
        return
    name, indices = picture.shapes
    ids = read_ids(folder / name, size)
    found = np.unique(ids)
    unknown = [int(number) for number in found if number != _VOID and number not in indices]
    if unknown:
        got = f"a segment of the id {unknown[0]}, which segments_info does not have"
        raise InputError(folder / name, got, "Check that the JSON file and the PNG files belong together.")
    for number, index in indices.items():
        if number not in found:
            notes.add(EMPTY, f"{picture.where}, segment {number}")
        else:
            yield Layer(index, ids == number)


def read_ids(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Return the segment ids of a PNG file, R + 256 G + 65536 B, as [H,W] int64.

    Args:
        path: of the file.
        size: height and width of its picture.
    Raises:
        InputError: the file is broken, has no colours or another size.
    """
    with open_image(path, ("PNG",)) as image:
        if image.size != size[::-1]:
            got = f"{image.width} x {image.height} pixels, but its picture has {size[1]} x {size[0]}"
            raise InputError(path, got, "Check that the two belong together.")
        if image.mode != "RGB":
            got = f"segment ids in a file of mode {image.mode}"
            raise InputError(path, got, "Export the file again.", allowed="RGB of 8 bits")
        verify_png(path)
        colours = np.asarray(image).astype(np.int64)  # [H,W,3]
    return colours @ np.array([1, 256, 65536])
