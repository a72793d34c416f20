"""Content of files: whether a file is a picture or a label file, and the values of labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from cliptrase_d2.color_files import Color
from cliptrase_d2.data.images import IMAGE_FORMATS, check_pixels, open_image
from cliptrase_d2.data.label_files import read_label
from cliptrase_d2.data.labels import pack_colors, unpack_color
from cliptrase_d2.data.proposal.bands import needs_bands, read_picture_facts
from cliptrase_d2.data.proposal.inventory import suffix
from cliptrase_d2.data.proposal.samples import sample
from cliptrase_d2.utils.errors import InputError, first_line

PICTURE, LABEL, UNKNOWN = "picture", "label", "unknown"
MAX_LABEL_FILES = 50
_MAX_PIXELS = 2**26  # of one file that is looked at; 0.3 GB as int32
_BUDGET = 2**28  # pixels of all files
_FEW = 64  # values or colours that a single label file may have
_MANY = 300  # with large areas of one value
_FLAT = 0.95  # share of equal neighbours in label files with many values


@dataclass(frozen=True)
class LabelFacts:
    """Content of a sample of label files.

    Attributes:
        files: number of decoded files.
        broken: number of files that could not be decoded, and the message of the first.
        modes: Pillow's modes, or "npy".
        values: raw value -> number of files with it; empty if there are colours.
        colors: colour -> number of files with it; empty if all files hold indices.
        palette: index -> its colour in files with a palette, where all files agree.
        has_clash: one index has two colours in the palettes of different files.
    """

    files: int = 0
    broken: tuple[str, ...] = ()
    modes: tuple[str, ...] = ()
    values: Counter[int] = field(default_factory=Counter)
    colors: Counter[Color] = field(default_factory=Counter)
    palette: dict[int, Color] = field(default_factory=dict)
    has_clash: bool = False


def classify(path: Path) -> str:
    """Return whether a file is a picture or a label file, by its values. Broken and huge files are "unknown"."""
    kind = suffix(path.name)
    if kind in (".jpg", ".jpeg", ".webp"):
        return PICTURE  # lossy
    if kind == ".npy":
        return LABEL
    try:
        if kind in (".tif", ".tiff") and needs_bands(read_picture_facts(path)):
            return PICTURE
        pixels, mode, _ = _decode(path)
    except InputError:
        return UNKNOWN
    values = _to_integers(pixels)
    distinct = len(np.unique(values))
    flat = float((values[:, 1:] == values[:, :-1]).mean()) if values.shape[1] > 1 else 1.0
    return LABEL if mode in ("P", "1") or distinct <= _FEW or (distinct <= _MANY and flat > _FLAT) else PICTURE


def look_at_labels(paths: Sequence[Path]) -> LabelFacts:
    """Read up to 50 label files at even distances, of at most 2^28 pixels together."""
    indices: Counter[int] = Counter()
    colors: Counter[Color] = Counter()
    grey: Counter[int] = Counter()  # indices in files of three channels
    palette: dict[int, set[Color]] = {}
    modes: Counter[str] = Counter()
    broken: list[str] = []
    pixels_left, files = _BUDGET, 0
    for path in sample(paths, MAX_LABEL_FILES):
        try:
            pixels, mode, table = _decode(path)
        except InputError as error:
            broken.append(str(error))
            continue
        files += 1
        modes[mode] += 1
        if pixels.ndim == 3 and (pixels != pixels[..., :1]).any():
            colors.update(unpack_color(value) for value in np.unique(pack_colors(pixels)))
        else:
            values = np.unique(pixels[..., 0] if pixels.ndim == 3 else pixels).tolist()
            (grey if pixels.ndim == 3 else indices).update(values)
            for value in table.keys() & values:
                palette.setdefault(value, set()).add(table[value])
        pixels_left -= pixels.size
        if pixels_left <= 0:
            break
    if colors:
        colors.update({(value, value, value): count for value, count in grey.items()})
    else:
        indices.update(grey)
    clash = any(len(found) > 1 for found in palette.values())
    agreed = {value: next(iter(found)) for value, found in palette.items() if len(found) == 1}
    if clash:  # the colours are the only common ground
        for found in palette.values():
            colors.update(found)
    values_found = Counter() if colors else indices
    return LabelFacts(files, tuple(broken), tuple(modes), values_found, colors, agreed, clash)


def _decode(path: Path) -> tuple[np.ndarray, str, dict[int, Color]]:
    """Return [H,W] values or [H,W,3] colours, the mode, and the palette if there is one.

    Raises:
        InputError: the file is broken, too large, or neither holds integers nor colours.
    """
    if suffix(path.name) == ".npy":
        return _load_npy(path), "npy", {}
    with open_image(path, IMAGE_FORMATS) as image:
        check_pixels(image.size, _MAX_PIXELS, path)
        mode = image.mode
        if mode in ("RGB", "RGBA", "RGBX", "LA", "PA", "La", "RGBa"):
            return np.asarray(image.convert("RGB")), mode, {}
        if mode not in ("1", "L", "P", "F") and not mode.startswith("I"):
            raise InputError(path, f"mode {mode}", "Convert it.")
        table = _get_palette(image) if mode == "P" else {}
        if mode == "F":
            values = np.asarray(image)
            if not np.isfinite(values).all() or (values != np.round(values)).any():
                raise InputError(path, "values that are not whole numbers", "Convert them.")
            return values.astype(np.int64), mode, table
        values = np.asarray(image).astype(np.int64)
    try:
        return read_label(path, _MAX_PIXELS).astype(np.int64), mode, table  # exact for 2 and 4 bits
    except InputError:  # a lossy or inverted file, which the check reports
        return values, mode, table


def _load_npy(path: Path) -> np.ndarray:
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy raises many kinds of error for a damaged file
        raise InputError(path, f"unreadable ({first_line(error)})", "Export it again.") from error
    if values.ndim != 2 or not np.issubdtype(values.dtype, np.integer) or not 0 < values.size <= _MAX_PIXELS:
        raise InputError(path, f"an array of {values.dtype} {values.shape}", "Save one channel of integers.")
    return np.asarray(values).astype(np.int64)


def _get_palette(image: Image.Image) -> dict[int, Color]:
    channels = image.getpalette("RGB") or []
    return {index: (channels[3 * index], channels[3 * index + 1], channels[3 * index + 2])
            for index in range(len(channels) // 3)}  # fmt: skip


def _to_integers(pixels: np.ndarray) -> np.ndarray:
    return pack_colors(pixels) if pixels.ndim == 3 else pixels
