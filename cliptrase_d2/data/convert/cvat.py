"""CVAT's export "CVAT for images": one XML file of polygons, boxes, ellipses and masks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree  # nosec B405  # no file with a DTD is parsed

import numpy as np

from cliptrase_d2.data.convert.json_files import require_unique, shorten
from cliptrase_d2.data.convert.pictures import clean_name, find_root, list_classes
from cliptrase_d2.data.convert.shapes import CLIPPED, EMPTY, decode_layer, encode_polygons
from cliptrase_d2.data.convert.source import Layer, Notes, Options, Picture, Source
from cliptrase_d2.utils.errors import InputError, first_line
from cliptrase_d2.utils.user_files import check_readable

FORMAT = "cvat"
ORDER = "by z_order, then in the order of the file, later shapes on top"
_OTHERS = ("polyline", "points", "ellipse", "cuboid", "skeleton", "tag")
_NUMBER = re.compile(r"-?\d{1,9}(\.\d*)?")


class Shape(NamedTuple):
    """A polygon, box or mask with its attributes in the file."""

    kind: str
    label: str
    values: dict[str, str]


def parse(path: Path) -> ElementTree.Element | None:
    """Return the root of an XML file; None if it is not CVAT's.

    Raises:
        InputError: the file cannot be parsed.
    """
    check_readable(path)
    content = path.read_bytes()
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise InputError(path, "XML with a document type, which CVAT does not write", "Export it again.")
    try:
        root = ElementTree.fromstring(content)  # nosec B314  # without a DTD there are no entities
    except (ElementTree.ParseError, ValueError, RecursionError, LookupError) as error:
        raise InputError(path, f"XML that cannot be read ({first_line(error)})", "Export it again.") from error
    return root if root.tag == "annotations" else None


def read(root: ElementTree.Element, path: Path, options: Options) -> Source:
    """Read the shapes of a file.

    Args:
        root: of the file.
        path: of the file.
        options: of the user.
    Raises:
        InputError: an image or a shape is invalid.
    """
    if root.find("track") is not None:
        got = "CVAT's export for videos, which has tracks"
        raise InputError(path, got, "Export the task as 'CVAT for images 1.1' or 'COCO 1.0'.")
    notes, found = Notes(), []
    for image in root.iter("image"):
        where = f"{path}: image {shorten(image.get('name'))}"
        height, width = (int(_get_number(image.attrib, side, where)) for side in ("height", "width"))
        name = clean_name(image.get("name") or "", where)
        found.append(Picture(name, where, (height, width), _read_shapes(image, where, notes)))
    require_unique((picture.name for picture in found), "images of the name", path, "Remove one.")
    listed = [(label.findtext("name") or "") for label in root.iterfind("meta//labels/label")]
    used = sorted({shape.label for picture in found for shape in picture.shapes} - set(listed))
    require_unique(listed, "labels of the name", path, "Rename one.")
    classes, by_name = list_classes([*listed, *used], options.classes, path)
    folders = (path.parent, path.parent / "images")
    images = find_root([picture.name for picture in found], options.images, folders, path)
    return Source(FORMAT, images, classes, found, partial(draw, indices=by_name), ORDER, notes)


def _read_shapes(image: ElementTree.Element, where: str, notes: Notes) -> list[Shape]:
    shapes = []
    for element in image:
        if element.tag in ("polygon", "box", "mask"):
            shapes.append(Shape(element.tag, element.get("label") or "", dict(element.attrib)))
        elif element.tag in _OTHERS:
            notes.add(f"shapes of the type '{element.tag}': skipped", where)
    return sorted(shapes, key=lambda shape: _get_number({"z_order": "0", **shape.values}, "z_order", where))


def _get_number(values: dict[str, str], key: str, where: str) -> float:
    return _parse_numbers(values.get(key, ""), 1, f"{where}: {key}")[0]


def _parse_numbers(text: str, count: int, where: str) -> list[float]:
    """Return numbers that are separated by commas or semicolons.

    Args:
        text: of the attribute.
        count: of which the number of numbers must be a multiple.
        where: place, for the message.
    """
    words = re.split(r"\s*[,;]\s*", text.strip())
    if len(words) % count or not all(_NUMBER.fullmatch(word) for word in words):
        raise InputError(where, f"{shorten(text)}, which has to be numbers", "Export the file again.")
    return [float(word) for word in words]


def draw(picture: Picture, size: tuple[int, int], notes: Notes, indices: dict[str, int]) -> Iterator[Layer]:
    """Yield a layer for each shape.

    Args:
        picture: with a list of shapes.
        size: its height and width.
        notes: on its shapes.
        indices: class index of each label.
    Raises:
        InputError: a shape is invalid.
    """
    for kind, label, values in picture.shapes:
        where = f"{picture.where}, {kind} of {label!r}"
        if kind == "mask":
            layer = _place_mask(values, size, where, notes)
        else:
            points = (
                _get_corners(values, where) if kind == "box" else _parse_numbers(values.get("points", ""), 2, where)
            )
            encoded = encode_polygons([points], size, where, notes)
            layer = decode_layer(0, encoded, where, notes) if encoded else None
        if layer:
            yield layer._replace(class_index=indices[label])


def _get_corners(values: dict[str, str], where: str) -> list[float]:
    if _get_number({"rotation": "0", **values}, "rotation", where):
        raise InputError(where, "a rotated box", "Draw a polygon in its place.")
    left, top, right, bottom = (_get_number(values, key, where) for key in ("xtl", "ytl", "xbr", "ybr"))
    return [left, top, right, top, right, bottom, left, bottom]


def _place_mask(values: dict[str, str], size: tuple[int, int], where: str, notes: Notes) -> Layer | None:
    """Return a mask whose run lengths, starting with the background, go row by row through its box."""
    left, top, width, height = (int(_get_number(values, key, where)) for key in ("left", "top", "width", "height"))
    runs = [int(number) for number in _parse_numbers(values.get("rle", ""), 1, where)]
    box_fits = 0 < width <= size[1] and 0 < height <= size[0]
    if not box_fits or min(runs) < 0 or sum(runs) != width * height:
        got = f"run lengths of {sum(runs):,} pixels in a box of {width} x {height}"
        raise InputError(where, got, "Export the file again.")
    mask = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    inside = mask[max(0, -top) : max(0, size[0] - top), max(0, -left) : max(0, size[1] - left)]
    if inside.shape != mask.shape:
        notes.add(CLIPPED, where)
    if not inside.any():
        notes.add(EMPTY, where)
        return None
    return Layer(0, inside, max(0, top), max(0, left))
