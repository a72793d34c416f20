"""Label Studio's JSON export: brushes, polygons and rectangles, whose coordinates are percent of the picture."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from cliptrase_d2.data.convert.json_files import get_size, get_value, shorten
from cliptrase_d2.data.convert.pictures import clean_name, find_root, is_file, list_classes
from cliptrase_d2.data.convert.shapes import EMPTY, decode_layer, encode_polygons
from cliptrase_d2.data.convert.source import Layer, Notes, Options, Picture, Source
from cliptrase_d2.data.files import IMAGE_SUFFIXES
from cliptrase_d2.utils.errors import InputError

FORMAT = "label-studio"
ORDER = "in the order of the file, later shapes on top"
SEVERAL = "tasks with several annotations: the latest is used"
_UPLOAD = re.compile(r"[0-9a-f]{8}-")  # before the names of uploaded files
_KINDS = ("brushlabels", "polygonlabels", "rectanglelabels")
_OPAQUE = 128  # brush strokes have soft edges


class Region(NamedTuple):
    """A result; ``value`` is as in the file."""

    kind: str
    label: str
    value: Any
    size: tuple[int, int] | None


def recognises(content: Any) -> bool:
    """Return whether the content of a JSON file is a list of Label Studio's tasks."""
    return isinstance(content, list) and all(isinstance(task, dict) and "data" in task for task in content[:1] or [{}])


def read(content: Any, path: Path, options: Options) -> Source:
    """Read the latest annotation of each task.

    Args:
        content: of the file, recognised.
        path: of the file.
        options: of the user.
    Raises:
        InputError: a task or a region is invalid, or a picture is missing.
    """
    notes = Notes()
    tasks = []
    for number, task in enumerate(content):
        where = f"{path}: task {shorten(task.get('id', number))}" if isinstance(task, dict) else str(path)
        tasks.append((where, find_candidates(task, where), _read_regions(task, where, notes)))
    labels = sorted({region.label for *_, regions in tasks for region in regions})
    classes, by_name = list_classes(labels, options.classes, path)
    folders = (path.parent, path.parent / "images", path.parent.parent / "images")
    root, names = find_pictures([candidates for _, candidates, _ in tasks], options.images, folders, path)
    pictures = [
        Picture(name, where, next((region.size for region in regions if region.size), None), regions)
        for name, (where, _, regions) in zip(names, tasks, strict=True)
    ]
    return Source(FORMAT, root, classes, pictures, partial(draw, indices=by_name), ORDER, notes)


def find_candidates(task: Any, where: str) -> list[str]:
    """Return the possible relative paths of the picture of a task.

    Raises:
        InputError: the task names no picture or several, or one outside of the folder.
    """
    data = get_value(task, "data", dict, where)
    addresses = [_get_path(value) for value in data.values() if isinstance(value, str)]
    paths = list(dict.fromkeys(path for path in addresses if PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES))
    if len(paths) != 1:
        got = f"{len(paths)} pictures in its data"
        raise InputError(
            where, got, "Export a project with one picture in each task.", allowed=" ".join(IMAGE_SUFFIXES)
        )
    relative = clean_name(paths[0].lstrip("/"), where)
    name = PurePosixPath(relative).name
    return list(dict.fromkeys((relative, name, _UPLOAD.sub("", name, count=1) if _UPLOAD.match(name) else name)))


def _get_path(address: str) -> str:
    """Return the path in an address, such as /data/local-files/?d=folder/a.jpg or s3://bucket/a.jpg."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return ""
    local = parse_qs(parts.query).get("d")
    return local[0] if local else unquote(parts.path)


def find_pictures(
    candidates: Sequence[Sequence[str]], images: Path | None, folders: Sequence[Path], where: object
) -> tuple[Path, list[str]]:
    """Return the folder of the pictures, and the path of each relative to it.

    Args:
        candidates: possible paths of each picture, the most exact first.
        images: the folder that the user names; None to try ``folders``.
        folders: possible folders.
        where: source, for the message.
    Raises:
        InputError: no folder has the first picture.
    """
    root = find_root([name for names in candidates[:1] for name in names], images, folders, where)
    return root, [next((name for name in names if is_file(root / name)), names[0]) for names in candidates]


def _read_regions(task: Any, where: str, notes: Notes) -> list[Region]:
    """Return the regions of the latest annotation of a task that was not cancelled."""
    found = get_value(task, "annotations", list, where) if "completions" not in task else task["completions"]
    valid = [entry for entry in found if isinstance(entry, dict) and not entry.get("was_cancelled")]
    if len(valid) > 1:
        notes.add(SEVERAL, where)
        if all(isinstance(entry.get("id"), int) for entry in valid):
            valid.sort(key=lambda entry: entry["id"])
    results = get_value(valid[-1], "result", list, where) if valid else []
    regions = [_read_region(result, where, notes) for result in results]
    return [region for region in regions if region]


def _read_region(result: Any, where: str, notes: Notes) -> Region | None:
    value = result.get("value") if isinstance(result, dict) else None
    kind = next((kind for kind in _KINDS if isinstance(value, dict) and kind in value), None)
    if kind is None or value is None:
        name = shorten(result.get("type") if isinstance(result, dict) else result)
        notes.add(f"results of the type {name}, which are no regions of a class: skipped", where)
        return None
    labels = get_value(value, kind, list, where)
    if len(labels) != 1 or not isinstance(labels[0], str):
        raise InputError(where, f"a region with {len(labels)} labels, {labels!r:.60}", "Give each region one label.")
    if result.get("image_rotation"):
        got = f"a picture that was rotated by {shorten(result['image_rotation'])} degrees in Label Studio"
        raise InputError(where, got, "Rotate the picture file, and label it again.")
    return Region(kind, labels[0], value, get_size(result, where, ("original_height", "original_width")))


def draw(picture: Picture, size: tuple[int, int], notes: Notes, indices: dict[str, int]) -> Iterator[Layer]:
    """Yield a layer for each region.

    Args:
        picture: with a list of regions.
        size: its height and width.
        notes: on its regions.
        indices: class index of each label.
    Raises:
        InputError: a region is invalid.
    """
    for kind, label, value, stated in picture.shapes:
        if stated not in (None, size):
            raise InputError(picture.where, f"regions of pictures of two sizes, {stated} and {size}", "Export again.")
        if kind == "brushlabels":
            mask = _decode_brush(value, size, picture.where)
            if mask.any():
                yield Layer(indices[label], mask)
            else:
                notes.add(EMPTY, picture.where)
            continue
        points = value.get("points") if kind == "polygonlabels" else _get_corners(value, size, picture.where)
        if kind == "polygonlabels":
            points = _scale(points, size, picture.where)
        encoded = encode_polygons([points], size, picture.where, notes)
        layer = decode_layer(indices[label], encoded, picture.where, notes) if encoded else None
        if layer:
            yield layer


def _scale(points: Any, size: tuple[int, int], where: str) -> list[list[float]]:
    """Return points in pixels."""
    is_list = isinstance(points, list) and all(isinstance(point, list) and len(point) == 2 for point in points)
    if not is_list or not all(type(side) in (int, float) for point in points for side in point):
        raise InputError(where, f"points {shorten(points)}, which are not pairs of numbers", "Export the file again.")
    return [[_to_float(x) * size[1] / 100, _to_float(y) * size[0] / 100] for x, y in points]


def _to_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer of hundreds of digits
        return math.inf


def _get_corners(value: Any, size: tuple[int, int], where: str) -> list[list[float]]:
    """Return the corners of a rectangle, which is rotated clockwise about its first corner, in pixels."""
    kinds = (int, float)
    x, y, width, height = (_to_float(get_value(value, key, kinds, where)) for key in ("x", "y", "width", "height"))
    ((x, y), (width, height)) = _scale([[x, y], [width, height]], size, where)
    angle = math.radians(_to_float(get_value({"rotation": 0, **value}, "rotation", kinds, where)) % 360)
    cosine, sine = math.cos(angle), math.sin(angle)
    corners = ((0, 0), (width, 0), (width, height), (0, height))
    return [[x + right * cosine - down * sine, y + right * sine + down * cosine] for right, down in corners]


def _decode_brush(value: Any, size: tuple[int, int], where: str) -> np.ndarray:
    """Return where a brush is opaque: [H,W] bool."""
    runs = get_value(value, "rle", list, where)
    pixels = size[0] * size[1]
    decoded = decode_runs(runs, 4 * pixels)
    if value.get("format") != "rle" or decoded is None:
        got = f"a brush whose run lengths are not those of {size[1]} x {size[0]} pixels of RGBA"
        raise InputError(where, got, "Export the labels again, or export them as Brush labels to PNG.")
    return decoded[3::4].reshape(size) >= _OPAQUE


def decode_runs(data: list[Any], expected: int) -> np.ndarray | None:
    """Decode Label Studio's run lengths (those of the package rle-pack).

    After a header (32 bits: number of values; 5: bits of a value, less 1; 4 × 4: bits of a length, less 1) come runs: 1
    bit for "one value repeated", 2 bits that choose the bits of the length, the length less 1, and one or all values.

    Args:
        data: bytes.
        expected: number of values.
    Returns:
        [expected] uint8; None if the data are invalid.
    """
    if not all(type(byte) is int and 0 <= byte < 256 for byte in data):
        return None
    bits = format(int.from_bytes(bytes(data), "big"), f"0{8 * len(data)}b") if data else ""
    place = 0

    def take(count: int) -> int:
        nonlocal place
        place += count
        if place > len(bits):
            raise EOFError
        return int(bits[place - count : place], 2)

    try:
        count, width = take(32), take(5) + 1
        sizes = [take(4) + 1 for _ in range(4)]
        if count != expected or width != 8:
            return None
        values = np.zeros(count, dtype=np.uint8)
        done = 0
        while done < count:
            is_repeated = take(1)
            length = min(take(sizes[take(2)]) + 1, count - done)
            if is_repeated:
                values[done : done + length] = take(width)
            else:
                values[done : done + length] = [take(width) for _ in range(length)]
            done += length
    except EOFError:
        return None
    return values
