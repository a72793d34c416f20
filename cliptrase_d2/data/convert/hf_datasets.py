"""Data sets of Hugging Face: folders of ``save_to_disk``, Parquet files, and those of the hub.

The pictures are inside the tables, so they are written beside the labels.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from cliptrase_d2.data.convert.json_files import load_json, shorten
from cliptrase_d2.data.convert.pictures import list_classes
from cliptrase_d2.data.convert.source import IGNORED, Layer, Notes, Options, Picture, Source
from cliptrase_d2.data.images import open_image, read_image
from cliptrase_d2.data.label_files import read_label
from cliptrase_d2.utils.atomic_files import atomic_write
from cliptrase_d2.utils.errors import InputError, first_line

FORMAT = "hf-datasets"
PREFIX = "hf-datasets:"
ORDER = "in no order: each pixel has one label"
_CLASS_FILE = "id2label.json"
_SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "TIFF": ".tif", "WEBP": ".webp"}
_IGNORE_VALUES = (255, 65535, -1)  # unless they are ids of classes


def recognises(folder: Path) -> bool:
    """Return whether a folder holds a data set: a saved one, or Parquet files."""
    names = ("dataset_info.json", "dataset_dict.json")
    return any((folder / name).is_file() for name in names) or bool(_list_parquet(folder))


def _list_parquet(path: Path) -> list[Path]:
    return [path] if path.suffix == ".parquet" else [*path.glob("*.parquet"), *path.glob("*/*.parquet")]


def read(options: Options) -> Source:
    """Read a table, and write its pictures to the folder ``images`` of the output.

    Args:
        options: of the user.
    Raises:
        InputError: the package is not installed, the table cannot be read, or its columns or class names are unclear.
    """
    table = _load(options)
    image_column, label_column = _find_columns(table, options)
    names = _find_names(table.features[label_column], options)
    # Without --classes, values count the classes; ids with gaps come from id2label.json.
    classes, by_name = list_classes([name for _, name in names], options.classes, options.source)
    index_by_value = {value: by_name[name] for value, name in names} if names else dict(enumerate(range(len(classes))))
    pictures = list(
        _write_pictures(_undecode(table, (image_column, label_column)), image_column, label_column, options)
    )
    draw_rows = partial(draw, index_by_value=index_by_value)
    return Source(FORMAT, options.output / "images", classes, pictures, draw_rows, ORDER)


def _import_datasets() -> Any:
    """Import the package ``datasets``, which a clone of this repository hides if it is not installed."""
    try:
        package: Any = import_module("datasets")
    except ImportError:
        package = None
    if not hasattr(package, "Dataset"):
        fix = "Install it: pip install 'cliptrase_d2[hf]'."
        raise InputError(FORMAT, "the package datasets is not installed", fix)
    return package


def _load(options: Options) -> Any:
    """Return the table. No code of a data set is run: the package has not run any since version 4."""
    datasets = _import_datasets()
    try:
        if options.source.startswith(PREFIX):
            return _fetch(options.source)
        path = options.path
        if files := _list_parquet(path):
            splits = sorted({file.name.partition("-")[0].removesuffix(".parquet") for file in files})
            _require_one(splits, path, "Name one file, or move the files of a split to a folder of their own.")
            with tempfile.TemporaryDirectory() as cache:
                names = [str(file) for file in sorted(files)]
                return datasets.Dataset.from_parquet(names, cache_dir=cache, keep_in_memory=True)
        if (path / "dataset_dict.json").is_file():
            splits = load_json(path / "dataset_dict.json")["splits"]
            _require_one(splits, path, f"Name the folder of one: {path / str(splits[0])}.")
            path /= splits[0]
        return datasets.load_from_disk(str(path))
    except InputError:
        raise
    except Exception as error:  # of Arrow, of the hub and of its network
        problem = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(options.source, f"a data set that cannot be read ({problem})", "Check its name.") from error


def _require_one(splits: list[str], where: object, fix: str) -> None:
    if len(splits) > 1:
        raise InputError(where, f"several splits: {', '.join(map(str, splits))}", fix)


def _fetch(source: str) -> Any:
    """Fetch a split from the hub, after saying how large it is."""
    datasets = _import_datasets()
    name, _, split = source.removeprefix(PREFIX).partition(":")
    builder = datasets.load_dataset_builder(name)
    splits = list(builder.info.splits or ())
    if not split:
        _require_one(splits, source, f"Name one: {PREFIX}{name}:{splits[-1] if splits else 'validation'}.")
        split = splits[0] if splits else "train"
    size = builder.info.download_size
    print(f"{name}: fetching {f'{size / 1e6:,.0f} MB' if size else 'files of unknown size'} from huggingface.co")
    return datasets.load_dataset(name, split=split)


def _find_columns(table: Any, options: Options) -> tuple[str, str]:
    """Return the names of the column of pictures and of that of label maps."""
    datasets = _import_datasets()
    for flag, column in zip(("--image-column", "--label-column"), options.columns, strict=True):
        if column and column not in table.features:
            raise InputError(flag, repr(column), "Choose one of these.", allowed=", ".join(table.features))
    image, label = options.columns
    maps = [name for name, feature in table.features.items() if _is_nested(feature)]
    images = [name for name, feature in table.features.items() if isinstance(feature, datasets.Image)]
    words = ("label", "annotation", "mask", "seg")
    labels = maps or [name for name in images if any(word in name.lower() for word in words)]
    labels = [label] if label else [name for name in labels if name != image]
    images = [image] if image else [name for name in images if name not in labels]
    for flag, found in (("--image-column", images), ("--label-column", labels)):
        if len(found) != 1:
            got = f"{len(found)} possible columns among {', '.join(table.features)}"
            raise InputError(options.source, got, f"Name it with {flag}.")
    return images[0], labels[0]


def _is_nested(feature: Any) -> bool:
    """Return whether a column holds rows of rows of numbers."""
    datasets = _import_datasets()
    if isinstance(feature, datasets.Array2D):
        return True
    inner = getattr(feature, "feature", feature[0] if isinstance(feature, list) else None)
    return getattr(inner, "feature", inner[0] if isinstance(inner, list) and inner else None) is not None


def _find_names(feature: Any, options: Options) -> list[tuple[int, str]]:
    """Return the class names by their values in ascending order; nothing if only the user can name them."""
    while feature is not None and not hasattr(feature, "names"):
        feature = feature[0] if isinstance(feature, list) and feature else getattr(feature, "feature", None)
    if feature is not None:
        return list(enumerate(feature.names))
    path = options.path / _CLASS_FILE
    if not options.source.startswith(PREFIX) and path.is_file():
        content = load_json(path)
        is_table = isinstance(content, dict) and all(isinstance(name, str) for name in content.values())
        if not is_table or not all(value.isdecimal() for value in content):
            raise InputError(path, f"{shorten(content)}, not a dict of ids and names", "Write {'0': 'sky', …}.")
        return sorted((int(value), name) for value, name in content.items())
    if options.classes is None:
        fix = f"Give them in the order of their values with --classes, or add {_CLASS_FILE}."
        raise InputError(options.source, "labels without class names", fix)
    return []


def _undecode(table: Any, columns: tuple[str, str]) -> Any:
    """Return the columns with images as files."""
    datasets = _import_datasets()
    table = table.select_columns(list(columns))
    for column in columns:
        if isinstance(table.features[column], datasets.Image):
            table = table.cast_column(column, datasets.Image(decode=False))
    return table.with_format(None)


def _write_pictures(table: Any, image_column: str, label_column: str, options: Options) -> Iterator[Picture]:
    """Write the pictures as they are, and yield them with the bytes or the rows of their labels."""
    digits = len(str(max(0, len(table) - 1)))
    for number, row in enumerate(tqdm(table, desc="pictures", unit="file", disable=None)):
        where = f"{options.source}: row {number}"
        content, label = (_get_bytes(row[column], f"{where}, {column}") for column in row)
        if not isinstance(content, bytes):
            raise InputError(f"{where}, {image_column}", f"{shorten(content)} in place of a picture", "Remove the row.")
        yield Picture(
            _write_picture(content, f"{number:0{digits}}", options.output / "images", where), where, None, label
        )


def _get_bytes(value: Any, where: str) -> Any:
    """Return the content of an image; the value itself if it is none. Paths in a table are not followed."""
    if not isinstance(value, dict):
        return value
    if value.get("bytes") is None:
        got = f"only the path of a file, {shorten(value.get('path'))}"
        raise InputError(where, got, "Save the data set with its images inside, for example by save_to_disk.")
    return value["bytes"]


def _write_picture(content: bytes, stem: str, folder: Path, where: str) -> str:
    """Write a picture, unchanged if its format is common, else as PNG. Return its name."""
    with _temporary_file(content) as path:
        try:
            with open_image(path) as image:
                suffix = _SUFFIXES.get(image.format or "")
            if suffix is None:
                stream = io.BytesIO()
                Image.fromarray(read_image(path)).save(stream, "PNG")
                content = stream.getvalue()
        except InputError as error:
            raise InputError(f"{where}, picture", error.got, error.fix, error.allowed) from error
    name = f"{stem}{suffix or '.png'}"
    atomic_write(folder / name, lambda file: file.write(content))
    return name


@contextmanager
def _temporary_file(content: bytes) -> Iterator[Path]:
    """Yield the path of a file with a content, which exists inside the ``with`` block."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(content)
        yield path


def draw(picture: Picture, size: tuple[int, int], notes: Notes, index_by_value: dict[int, int]) -> Iterator[Layer]:
    """Yield a layer for each value of a label map. 255, 65535 and -1 are ignored unless they are classes.

    Args:
        picture: with the bytes of an image file, or rows of numbers, or None.
        size: its height and width.
        notes: not used.
        index_by_value: class indices.
    Raises:
        InputError: the label map is broken or has another size or a value without a class.
    """
    if picture.shapes is None:
        return
    values = _read_values(picture.shapes, picture.where)
    if values.shape != size:
        got = f"labels of the shape {values.shape}, but its picture has {size[1]} x {size[0]} pixels"
        raise InputError(picture.where, got, "Check the columns.")
    for value in np.unique(values).tolist():
        if value not in index_by_value and value not in _IGNORE_VALUES:
            allowed = f"{len(index_by_value)} classes, and {', '.join(map(str, _IGNORE_VALUES))} for none"
            raise InputError(picture.where, f"the label value {value}", "Correct the class names.", allowed=allowed)
        yield Layer(index_by_value.get(value, IGNORED), values == value)


def _read_values(labels: Any, where: str) -> np.ndarray:
    if isinstance(labels, bytes):
        with _temporary_file(labels) as path:
            try:
                return read_label(path)
            except InputError as error:
                raise InputError(f"{where}, labels", error.got, error.fix, error.allowed) from error
    try:
        values = np.array(labels)
    except ValueError:  # rows of different lengths
        values = np.array(None)
    if values.ndim != 2 or values.dtype.kind not in "iu":
        raise InputError(where, f"labels {shorten(labels)}, not rows of whole numbers", "Check --label-column.")
    return values
