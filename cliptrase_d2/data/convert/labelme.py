"""LabelMe's JSON files, one for each picture. Shapes are drawn as LabelMe's own export draws them, by Pillow.

A point (x, y) belongs to the pixel whose column and row are the whole parts of x and y. A polygon covers its points,
the lines between them and the pixels inside.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngImageFile

from cliptrase_d2.data.convert.json_files import get_size, get_value, load_json, shorten
from cliptrase_d2.data.convert.pictures import clean_name, find_root, is_file, list_classes
from cliptrase_d2.data.convert.shapes import CLIPPED, EMPTY, TOO_FEW, read_points
from cliptrase_d2.data.convert.source import IGNORED, UNLABELLED, Layer, Notes, Options, Picture, Source
from cliptrase_d2.data.images import wrap_decoding_errors
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.parallel import map_parallel
from cliptrase_d2.utils.user_files import read_text

FORMAT = "labelme"
ORDER = "in the order of the file, later shapes on top"
_SPECIAL = {"__ignore__": IGNORED, "_background_": UNLABELLED}
_POLYGONS = ("polygon", "oriented_rectangle")
_NO_AREA = ("point", "points", "line", "linestrip")
_CLASS_FILE = "labels.txt"  # LabelMe's --labels


class Shape(NamedTuple):
    """A shape of a file; ``mask`` is base64 of a PNG file, or None."""

    label: str
    kind: str
    points: Any
    mask: Any


class _File(NamedTuple):
    name: str
    size: tuple[int, int] | None
    shapes: list[Shape]
    has_picture: bool


def recognises(content: Any) -> bool:
    """Return whether the content of a JSON file is LabelMe's."""
    return isinstance(content, dict) and isinstance(content.get("shapes"), list) and "imagePath" in content


def read(paths: list[Path], options: Options) -> Source:
    """Read the shapes of files.

    Args:
        paths: of the files. Other JSON files among them are noted.
        options: of the user.
    Raises:
        InputError: a file or a shape is invalid.
    """
    notes = Notes()
    base = options.path if options.path.is_dir() else options.path.parent
    files: list[tuple[Path, _File]] = []
    results = map_parallel(_read_file, paths, options.workers, title="JSON", unit="file")
    for path, file in zip(paths, results, strict=True):
        if file is None:
            notes.add("JSON files that are not LabelMe's: skipped", path)
        else:
            files.append((path, file))
    labels = {shape.label for _, file in files for shape in file.shapes} - _SPECIAL.keys()
    names = _order_labels(labels, base) if options.classes is None else sorted(labels)
    classes, by_name = list_classes(names, options.classes, base)
    root, found = _find_pictures(files, base, options)
    pictures = [
        Picture(name, str(path), file.size, file.shapes) for (path, file), name in zip(files, found, strict=True)
    ]
    return Source(FORMAT, root, classes, pictures, partial(draw, indices=by_name | _SPECIAL), ORDER, notes)


def _read_file(path: Path) -> _File | None:
    content = load_json(path)
    if not recognises(content):
        return None
    shapes = []
    for number, shape in enumerate(content["shapes"], 1):
        where = f"{path}: shape {number}"
        kind = shape.get("shape_type") if isinstance(shape, dict) else None
        points = get_value(shape, "points", list, where)
        # Versions before 4 wrote no type.
        shapes.append(Shape(get_value(shape, "label", str, where), str(kind or "polygon"), points, shape.get("mask")))
    size = get_size(content, path, ("imageHeight", "imageWidth"))
    return _File(get_value(content, "imagePath", str, path), size, shapes, bool(content.get("imageData")))


def _order_labels(labels: set[str], base: Path) -> list[str]:
    """Return labels in the order of a file labels.txt, or else sorted."""
    if not is_file(base / _CLASS_FILE):
        return sorted(labels)
    listed = [line.strip() for line in read_text(base / _CLASS_FILE).splitlines()]
    names = [line for line in listed if line and line not in _SPECIAL]
    if missing := sorted(labels - set(names)):
        got = f"a list of labels without {missing[0]!r}, which a shape has"
        raise InputError(base / _CLASS_FILE, got, "Add it, or give the order with --classes.")
    return names


def _find_pictures(files: list[tuple[Path, _File]], base: Path, options: Options) -> tuple[Path, list[str]]:
    """Return the folder of the pictures, and the path of each relative to it."""
    names = []
    for path, file in files:
        folder, stated = path.parent.relative_to(base).as_posix(), file.name.replace("\\", "/")
        if options.images is None:
            is_relative = not stated.startswith("/") and stated[1:2] != ":"
            names.append(clean_name(f"{folder}/{stated}" if is_relative else stated, path))
            continue
        # The paths in the files lead to where the pictures were when they were labelled.
        name = stated.rpartition("/")[2]
        nested = clean_name(f"{folder}/{name}", path)
        names.append(nested if is_file(options.images / nested) else clean_name(name, path))
    if options.images is None:
        for (path, file), name in zip(files, names, strict=True):
            if not is_file(base / name) and file.has_picture:
                got = f"no picture {base / name}, only its copy in imageData"
                raise InputError(path, got, "Write the copy to a file with labelme_export_json, or add the picture.")
    return find_root(names, options.images, [base], base), names


def draw(picture: Picture, size: tuple[int, int], notes: Notes, indices: dict[str, int]) -> Iterator[Layer]:
    """Yield a layer for each shape with an area.

    Args:
        picture: with a list of shapes.
        size: its height and width.
        notes: on its shapes.
        indices: class index of each label.
    Raises:
        InputError: a shape is invalid.
    """
    for number, shape in enumerate(picture.shapes, 1):
        where = f"{picture.where}: shape {number}"
        if shape.kind not in (*_POLYGONS, "rectangle", "circle", "mask"):
            reason = "which has no area" if shape.kind in _NO_AREA else "which is unknown"
            notes.add(f"shapes of the type {shape.kind[:20]!r}, {reason}: skipped", where)
            continue
        points = read_points(shape.points, size, where, notes)
        if shape.kind in _POLYGONS and len(points) < 3:
            notes.add(TOO_FEW, where)
            continue
        if shape.kind not in _POLYGONS and len(points) != 2:
            raise InputError(where, f"a {shape.kind} of {len(points)} points", "Draw it again.", allowed="2 points")
        layer = _draw_shape(shape, points, size, where, notes)
        mask = layer.mask if layer else np.zeros((0, 0), bool)
        if not layer or not mask.any():
            notes.add(EMPTY, where)
        else:
            yield layer._replace(class_index=indices[shape.label])


def _draw_shape(shape: Shape, points: np.ndarray, size: tuple[int, int], where: str, notes: Notes) -> Layer | None:
    if shape.kind == "mask":
        return _place_mask(shape.mask, points, size, where, notes)
    canvas = Image.new("1", size[::-1])
    pen = ImageDraw.Draw(canvas)
    corners = [tuple(point) for point in points.tolist()]
    if shape.kind == "rectangle":
        (left, right), (top, bottom) = sorted(points[:, 0].tolist()), sorted(points[:, 1].tolist())
        pen.rectangle((left, top, right, bottom), fill=1, outline=1)
    elif shape.kind == "circle":
        (x, y), edge = points.tolist()
        radius = math.hypot(edge[0] - x, edge[1] - y)
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1, outline=1)
    else:
        pen.polygon(corners, fill=1, outline=1)
    box = canvas.getbbox()
    if box is None:
        return None
    return Layer(0, np.asarray(canvas)[box[1] : box[3], box[0] : box[2]], box[1], box[0])


def _place_mask(data: Any, points: np.ndarray, size: tuple[int, int], where: str, notes: Notes) -> Layer | None:
    """Return a mask between two corners, both included."""
    (left, top), (right, bottom) = points.astype(int).tolist()
    mask = _decode_mask(data, (right - left + 1, bottom - top + 1), where)
    height, width = size
    inside = mask[max(0, -top) : max(0, height - top), max(0, -left) : max(0, width - left)]
    if inside.shape != mask.shape:
        notes.add(CLIPPED, where)
    return Layer(0, inside, max(0, top), max(0, left)) if inside.size else None


def _decode_mask(data: Any, size: tuple[int, int], where: str) -> np.ndarray:
    """Decode base64 of a PNG file of a width and a height: [h,w] bool."""
    try:
        content = base64.b64decode(data, validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise InputError(where, f"mask {shorten(data)}, which is not base64", "Draw it again.") from error
    with wrap_decoding_errors(where), PngImageFile(io.BytesIO(content)) as image:
        if image.size != size or image.mode not in ("1", "L", "P"):
            got = f"a mask of {image.width} x {image.height} pixels and mode {image.mode}"
            allowed = f"one channel of {size[0]} x {size[1]} pixels, as its corners say"
            raise InputError(where, got, "Draw it again.", allowed=allowed)
        return np.asarray(image) > 0
