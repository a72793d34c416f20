"""Polygons and run-length encodings in COCO's convention: pixel (x, y) covers the square from (x, y) to (x+1, y+1)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco

from cliptrase_d2.data.convert.json_files import shorten
from cliptrase_d2.data.convert.source import Layer, Notes
from cliptrase_d2.utils.errors import InputError

TOO_FEW = "polygons with fewer than 3 points: skipped"
CLIPPED = "shapes that leave their picture: clipped"
EMPTY = "shapes that cover no pixel: without effect"
_MAX_DISTANCE = 10  # of a point from its picture, in sides of the picture; memory grows with the length of an outline
_MAX_OUTLINE = 2**22  # pixels; pycocotools needs 100 bytes for each
_MIN_CONTOUR_POINTS = 100  # in a whole file; fewer points can have such steps by chance
_CODES = np.arange(48, 112)  # characters of compressed run lengths


def read_points(points: Any, size: tuple[int, int], where: object, notes: Notes) -> np.ndarray:
    """Return the points of a polygon as [N,2] float64, x before y.

    Args:
        points: flat list of numbers, or list of pairs.
        size: height and width of the picture.
        where: place of the polygon, for messages.
        notes: receives polygons that leave the picture.
    Raises:
        InputError: a coordinate is not a finite number, lacks its partner or is far outside the picture.
    """
    try:
        array = np.array(points if isinstance(points, list) else None)
    except (ValueError, OverflowError):  # pairs and triples mixed
        array = np.array(None)
    is_numeric = array.dtype.kind in "iuf" and array.ndim <= 2 and (array.ndim == 1 or array.shape[1] == 2)
    if array.size and (not is_numeric or array.size % 2):
        raise InputError(where, f"points {shorten(points)}, which are not pairs of numbers", "Export the file again.")
    array = array.reshape(-1, 2).astype(np.float64) if array.size else np.zeros((0, 2))
    height, width = size
    if not np.isfinite(array).all() or (np.abs(array) > (_MAX_DISTANCE + 1) * max(size)).any():
        got = f"a point that is not a number, or far outside its picture of {width} x {height} pixels"
        raise InputError(where, got, "Correct it. Coordinates must be in pixels of this picture.")
    if np.abs(np.diff(array, axis=0)).max(axis=1, initial=0).sum() > _MAX_OUTLINE:
        raise InputError(where, "an outline of absurd length", "Correct it.", f"at most {_MAX_OUTLINE:,} pixels")
    if ((array < 0) | (array > (width, height))).any():
        notes.add(CLIPPED, where)
    return array


def encode_polygons(polygons: Any, size: tuple[int, int], where: object, notes: Notes, is_contour: bool = False) -> Any:
    """Return the union of polygons in pycocotools' encoding; None if it has no area.

    Args:
        polygons: list of flat lists or of lists of pairs.
        size: height and width of the picture.
        where: place of the polygons, for messages.
        notes: receives polygons with fewer than 3 points.
        is_contour: the points are pixels, as those of ``cv2.findContours``, and belong to the polygon.
    Raises:
        InputError: as ``read_points``.
    """
    arrays = [read_points(polygon, size, where, notes) for polygon in polygons]
    usable = [points for points in arrays if len(points) >= (1 if is_contour else 3)]
    if len(usable) < len(arrays):  # pycocotools would read two points as a box
        notes.add(TOO_FEW, where, len(arrays) - len(usable))
    if not usable:
        return None
    if not is_contour:
        return coco.merge(coco.frPyObjects([points.ravel().tolist() for points in usable], *size))
    canvas = np.zeros(size, dtype=np.uint8)
    for points in usable:  # one call would leave holes where polygons overlap
        cv2.fillPoly(canvas, [points.astype(np.int32)], 1)
    return coco.encode(np.asfortranarray(canvas))


def are_contours(polygons: Iterable[tuple[Any, tuple[int, int] | None]]) -> bool:
    """Return whether all polygons look like those of ``cv2.findContours``.

    Their points are pixels. In COCO's convention, in which points are corners of pixels, each shape would lose its last
    row and column. Such polygons have whole coordinates below the size of the picture, and all steps between points are
    horizontal, vertical or diagonal.

    Args:
        polygons: flat lists of numbers, each with the height and width of its picture if known.
    """
    count, has_diagonal = 0, False
    for polygon, size in polygons:
        try:
            points = np.array(polygon)
        except ValueError:  # lists of different lengths
            return False
        if points.dtype.kind not in "iuf" or points.ndim != 1 or points.size % 2:
            return False
        if not np.isfinite(points).all() or (points % 1 != 0).any():
            return False
        points = points.reshape(-1, 2).astype(np.float64)
        steps = np.abs(np.diff(points, axis=0, append=points[:1]))
        if ((steps.min(axis=1) > 0) & (steps[:, 0] != steps[:, 1])).any() or (size and (points >= size[::-1]).any()):
            return False
        count, has_diagonal = count + len(points), has_diagonal or bool((steps.min(axis=1) > 0).any())
    return count >= _MIN_CONTOUR_POINTS and has_diagonal


def encode_runs(runs: Any, size: tuple[int, int], where: object) -> Any:
    """Return run lengths, compressed or not, in pycocotools' encoding. It would read invalid ones from other memory.

    Args:
        runs: COCO's object with ``size`` and ``counts``, column by column, starting with the background.
        size: height and width of the picture.
        where: place of the runs, for messages.
    Raises:
        InputError: the runs are invalid, or cover another number of pixels.
    """
    counts = runs.get("counts")
    stated = runs.get("size")
    if stated is not None and stated != list(size):
        got = f"a mask of the size {shorten(stated)} (height, width), in a picture of {list(size)}"
        raise InputError(where, got, "Check that the two belong together.")
    if isinstance(counts, str):
        counts = decompress_counts(counts)
    if not isinstance(counts, list) or not all(isinstance(count, int) and count >= 0 for count in counts):
        raise InputError(where, "run lengths that cannot be read", "Export the file again.")
    if sum(counts) != size[0] * size[1]:
        got = f"run lengths of {sum(counts):,} pixels, in a picture of {size[1]} x {size[0]} = {size[0] * size[1]:,}"
        raise InputError(where, got, "Check that the two belong together.")
    encoded: Any = {"counts": counts, "size": list(size)}
    return coco.frPyObjects(encoded, *size)


def decompress_counts(text: str) -> list[int] | None:
    """Return the run lengths of COCO's compressed string; None if it is invalid.

    Each number is stored in groups of 5 bits, the lowest first, of which all but the last have bit 5 set. From the
    fourth on, a number is the difference from the number two places before.
    """
    if not text or not text.isascii():
        return None if text else []
    codes = np.frombuffer(text.encode(), np.uint8)
    if not np.isin(codes, _CODES).all() or codes[-1] - 48 & 32:
        return None
    groups = codes.astype(np.int64) - 48
    ends = np.flatnonzero(groups & 32 == 0)
    starts = np.concatenate(([0], ends[:-1] + 1)).astype(np.int64)
    lengths = ends - starts + 1
    if lengths.max() > 8:  # more than 40 bits
        return None
    places = np.arange(len(groups)) - np.repeat(starts, lengths)
    values = np.add.reduceat((groups & 31) << (5 * places), starts)
    values -= (groups[ends] & 16 > 0) * (np.int64(1) << (5 * lengths))  # the sign
    for first in (1, 2):
        values[first::2] = np.cumsum(values[first::2])
    return values.tolist()


def decode_layer(index: int, encoded: Any, where: object, notes: Notes) -> Layer | None:
    """Return an encoded mask as a layer without empty margins; None if it covers no pixel, which is noted.

    Args:
        index: class index, UNLABELLED or IGNORED.
        encoded: in pycocotools' encoding.
        where: place of the shape, for notes.
        notes: receives empty shapes.
    """
    left, top, width, height = (int(side) for side in coco.toBbox(encoded))
    if not width or not height:
        notes.add(EMPTY, where)
        return None
    return Layer(index, coco.decode(encoded)[top : top + height, left : left + width].astype(bool), top, left)
