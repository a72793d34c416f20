"""COCO's JSON files of instances and "stuff": polygons and run lengths."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from pycocotools import mask

from cliptrase_d2.data.convert.json_files import get_size, get_value, require_unique, shorten
from cliptrase_d2.data.convert.pictures import clean_name, find_root, list_classes
from cliptrase_d2.data.convert.shapes import are_contours, decode_layer, encode_polygons, encode_runs
from cliptrase_d2.data.convert.source import IGNORED, Layer, Notes, Options, Picture, Source
from cliptrase_d2.utils.errors import InputError

FORMAT = "coco"
ORDER = "larger shapes first, so that smaller ones are on top"
_BOXES = "annotations without a segmentation: skipped"
_CONTOURS = "polygons like those of cv2.findContours, whose points are pixels: drawn with outlines (else --no-contours)"
CROWDS = "crowd regions: ignored, below all other shapes (--keep-crowds gives them their class)"
_ID = (int, str, float)


class Region(NamedTuple):
    """An annotation.

    Attributes:
        class_index: or IGNORED.
        segmentation: as in the file.
        number: its id, for messages.
    """

    class_index: int
    segmentation: Any
    number: object


def recognises(content: Any) -> bool:
    """Return whether the content of a JSON file is COCO's, without panoptic segments."""
    keys = ("images", "annotations", "categories")
    return isinstance(content, dict) and all(isinstance(content.get(key), list) for key in keys)


def read(content: Any, path: Path, options: Options) -> Source:
    """Read the annotations of a file.

    Args:
        content: of the file, recognised.
        path: of the file.
        options: of the user.
    Raises:
        InputError: an image, annotation or category is invalid.
    """
    classes, index_by_category = read_categories(content, path, options)
    pictures, notes = read_images(content, path), Notes()
    regions: dict[Any, list[Region]] = defaultdict(list)
    known = {key for key, _ in pictures}
    for entry in content["annotations"]:
        number = entry.get("id") if isinstance(entry, dict) else None
        where = f"{path}: annotation {shorten(number)}"
        picture = get_value(entry, "image_id", _ID, where)
        if picture not in known:
            raise InputError(where, f"image_id {shorten(picture)}, which is no image", "Add the image or remove this.")
        index = get_index(entry, index_by_category, where)
        if not entry.get("segmentation"):
            notes.add(_BOXES, where)
            continue
        if entry.get("iscrowd") and not options.keep_crowds:
            notes.add(CROWDS, where)
            index = IGNORED
        regions[picture].append(Region(index, entry["segmentation"], number))
    if content["annotations"] and not regions:
        raise InputError(path, "annotations without any segmentation", "Export the polygons or masks, not only boxes.")
    sizes = {key: picture.size for key, picture in pictures}
    is_contour = options.contours
    if is_contour is None:
        is_contour = are_contours(_list_polygons(regions, sizes))
        if is_contour:
            notes.add(_CONTOURS, path)
    done = [replace(picture, shapes=regions.get(key, ())) for key, picture in pictures]
    root = find_root([picture.name for picture in done], options.images, list_folders(path), path)
    return Source(FORMAT, root, classes, done, partial(draw, path=path, is_contour=is_contour), ORDER, notes)


def read_categories(content: Any, path: Path, options: Options) -> tuple[tuple[str, ...], dict[Any, int]]:
    """Return the classes in the order of the category ids, and the class index of each id.

    Raises:
        InputError: a category is invalid, or two have the same id or name.
    """
    where = f"{path}: categories"
    found = [
        (get_value(entry, "id", int, where), get_value(entry, "name", str, where)) for entry in content["categories"]
    ]
    require_unique((number for number, _ in found), "categories with the id", path, "Give each its own id.")
    fix = "Rename one, or remove one that has no annotations."
    require_unique((name for _, name in found), "categories of the name", path, fix)
    names = [name for _, name in sorted(found)]
    classes, by_name = list_classes(names, options.classes, path)
    return classes, {number: by_name[name] for number, name in found}


def read_images(content: Any, path: Path) -> list[tuple[Any, Picture]]:
    """Return the id of each image, and the image without shapes.

    Raises:
        InputError: an image is invalid, or two have the same id or file name.
    """
    images = []
    for entry in content["images"]:
        where = f"{path}: image {shorten(entry.get('id'))}" if isinstance(entry, dict) else str(path)
        key = get_value(entry, "id", _ID, where)
        name = clean_name(get_value(entry, "file_name", str, where), where)
        images.append((key, Picture(name, where, get_size(entry, where), ())))
    require_unique((key for key, _ in images), "images with the id", path, "Give each its own id.")
    require_unique((picture.name for _, picture in images), "images with the file_name", path, "Remove one.")
    return images


def get_index(entry: Any, index_by_category: dict[Any, int], where: str) -> int:
    """Return the class index of an annotation.

    Raises:
        InputError: its category does not exist.
    """
    category = get_value(entry, "category_id", int, where)
    if category not in index_by_category:
        raise InputError(where, f"category_id {category}, which is no category", "Add the category to the file.")
    return index_by_category[category]


def draw(picture: Picture, size: tuple[int, int], notes: Notes, path: Path, is_contour: bool) -> list[Layer]:
    """Return the layers of a picture: crowds that are ignored, then all others, the largest first.

    Args:
        picture: with a list of regions.
        size: its height and width.
        notes: on its regions.
        path: of the file, for messages.
        is_contour: the points of polygons are pixels.
    """
    drawn = []
    for index, segmentation, number in picture.shapes:
        where = f"{path}: annotation {shorten(number)}"
        encoded = encode(segmentation, size, where, notes, is_contour)
        layer = decode_layer(index, encoded, where, notes) if encoded else None
        if layer and encoded:
            drawn.append((index != IGNORED, -int(mask.area(encoded)), layer))
    return [layer for *_, layer in sorted(drawn, key=lambda entry: entry[:2])]


def encode(segmentation: Any, size: tuple[int, int], where: str, notes: Notes, is_contour: bool) -> Any:
    """Return a segmentation in pycocotools' encoding; None if it has no area.

    Raises:
        InputError: it is invalid.
    """
    if isinstance(segmentation, dict):
        return encode_runs(segmentation, size, where)
    if not isinstance(segmentation, list) or not all(isinstance(polygon, list) for polygon in segmentation):
        got = f"segmentation {shorten(segmentation)}"
        raise InputError(where, got, "Export the file again.", allowed="a list of polygons, or run lengths")
    return encode_polygons(segmentation, size, where, notes, is_contour)


def _list_polygons(
    regions: Mapping[Any, list[Region]], sizes: Mapping[Any, tuple[int, int] | None]
) -> Iterator[tuple[Any, tuple[int, int] | None]]:
    for key, found in regions.items():
        for region in found:
            polygons = region.segmentation if isinstance(region.segmentation, list) else []
            yield from ((polygon, sizes[key]) for polygon in polygons)


def list_folders(path: Path) -> list[Path]:
    """Return where the pictures of a file often are, such as val2017 for annotations/instances_val2017.json."""
    split = path.stem.rpartition("_")[2]
    return [
        base / name for base in (path.parent, path.parent.parent) for name in ("", "images", split, f"images/{split}")
    ]
