"""Conversion of a source: label files, a list of pictures and a data-set file."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path, PurePosixPath

import numpy as np
import yaml

from cliptrase_d2.data.convert.paint import Findings, paint
from cliptrase_d2.data.convert.pictures import check_pictures, check_size
from cliptrase_d2.data.convert.source import IGNORED, UNLABELLED, Draw, Notes, Picture, Source
from cliptrase_d2.data.custom import DatasetSpec, read_dataset_file
from cliptrase_d2.data.files import IMAGE_SUFFIXES
from cliptrase_d2.data.prepare.convert import write_label
from cliptrase_d2.data.register import load_records
from cliptrase_d2.utils.atomic_files import atomic_write_text
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.parallel import map_parallel

DATASET_FILE, LIST_FILE, LABELS = "dataset.yaml", "images.txt", "labels"
_MAX_CLASSES = 65535


@dataclass(frozen=True)
class Conversion:
    """Result of a conversion.

    Attributes:
        spec: the data set that was written.
        pictures: number of pictures with labels.
        empty: number of pictures in the source without annotations, which were left out.
        unlisted: number of pictures in the folder that the source does not list.
        background: index of the class of unlabelled pixels; None if they are ignored.
        findings: counts over all pictures.
    """

    spec: DatasetSpec
    pictures: int
    empty: int
    unlisted: int
    background: int | None
    findings: Findings


def convert_source(source: Source, output: Path, background: str = "", workers: int = 1) -> Conversion:
    """Write the labels of a source as index PNG files with a data-set file.

    Args:
        source: the labels.
        output: folder of the results: labels/, images.txt and dataset.yaml, which is written last.
        background: name of the class of unlabelled pixels; "" to ignore them, and to leave out pictures without
            annotations.
        workers: number of processes.
    Raises:
        InputError: a picture is missing or has another size, or a shape is invalid.
    """
    classes, index = _add_background(source.classes, background)
    used = [picture for picture in source.pictures if background or picture.shapes]
    names = [picture.name for picture in used]
    if not used:
        raise InputError(source.images, "no picture with annotations", "Check the export, or give --background NAME.")
    check_pictures(names, source.images, source.format)
    spec = _describe(source, names, classes, output)
    _check_places(spec, source.images, output)
    (output / DATASET_FILE).unlink(missing_ok=True)  # it exists only if all files of its data set do
    findings = Findings(np.zeros(len(classes), dtype=np.int64))
    findings.notes.update(source.notes)
    convert = partial(
        convert_picture, draw=source.draw, images=source.images, labels=output / LABELS,
        classes=len(classes), background=index, ignore_label=spec.ignore_label,
    )  # fmt: skip
    for found in map_parallel(convert, used, workers, title="labels", unit="file"):
        findings.update(found)
    _write_files(spec, names, output)
    unlisted = len(_list_folder(source.images, names) - {picture.name for picture in source.pictures})
    return Conversion(spec, len(used), len(source.pictures) - len(used), unlisted, index, findings)


def _add_background(classes: tuple[str, ...], background: str) -> tuple[tuple[str, ...], int | None]:
    """Return the classes with the one of unlabelled pixels, and its index."""
    if background and background not in classes:
        classes = (*classes, background)
    if len(classes) > _MAX_CLASSES:
        raise InputError("classes", f"{len(classes):,} classes", "Merge some.", allowed=f"at most {_MAX_CLASSES:,}")
    return classes, classes.index(background) if background else None


def _describe(source: Source, names: Sequence[str], classes: tuple[str, ...], output: Path) -> DatasetSpec:
    """Return the description of the data set, with paths that are relative to the folder of results."""
    folders = sorted({PurePosixPath(name).parent for name in names})
    depths = {len(folder.parts) for folder in folders}
    below = str(folders[0]) if len(folders) == 1 else "/".join("*" * (depths.pop() + 1)) if len(depths) == 1 else "**/*"
    base = Path(os.path.relpath(source.images.resolve(), output.resolve()))
    name = re.sub(r"[^\w.-]", "_", output.resolve().name)[:100]
    return DatasetSpec(
        name if re.match(r"\w", name) else "converted",
        base / below,
        classes,
        Path(LABELS) / below,
        255 if len(classes) <= 255 else 65535,
        image_list=Path(LIST_FILE),
    )


def _check_places(spec: DatasetSpec, images: Path, output: Path) -> None:
    """Raise if label files would be written among the pictures, or be listed as pictures."""
    labels, pictures = (output / LABELS).resolve(), images.resolve()
    is_nested = "*" in str(spec.labels)
    if pictures.is_relative_to(labels) or labels == pictures or (is_nested and labels.is_relative_to(pictures)):
        got = f"{str(output)!r}, whose labels would lie among the pictures in {images}"
        raise InputError("OUTPUT_FOLDER", got, "Choose a folder elsewhere.")


def convert_picture(
    picture: Picture, draw: Draw, images: Path, labels: Path, classes: int, background: int | None, ignore_label: int
) -> Findings:
    """Write the label file of a picture and return its counts.

    Args:
        picture: with its shapes.
        draw: turns shapes into layers.
        images: folder of the pictures.
        labels: folder of the label files.
        classes: number of classes.
        background: index of the class of unlabelled pixels; None to ignore them.
        ignore_label: value of ignored pixels.
    Raises:
        InputError: the sizes differ, or a shape is invalid.
    """
    size, notes = check_size(images / picture.name, picture.size, picture.where), Notes()
    indices, findings = paint(draw(picture, size, notes), size, classes, notes)
    indices[indices == UNLABELLED] = ignore_label if background is None else background
    indices[indices == IGNORED] = ignore_label
    write_label((labels / picture.name).with_suffix(".png"), indices, bits=8 if ignore_label < 256 else 16)
    if background is not None:
        findings.pixels[background] += findings.unlabelled
        findings.unlabelled = 0
    return findings


def _write_files(spec: DatasetSpec, names: Sequence[str], output: Path) -> None:
    """Write the list of pictures and the data-set file, and check that both can be read."""
    atomic_write_text(output / LIST_FILE, "".join(f"{line}\n" for line in _list_lines(spec, names)))
    keys = {
        "name": spec.name,
        "images": spec.images.as_posix(),
        "labels": str(spec.labels),
        "image_list": LIST_FILE,
        "ignore_label": spec.ignore_label,
        "classes": list(spec.classes),
    }
    text = yaml.safe_dump(keys, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)
    atomic_write_text(output / DATASET_FILE, f"# Written by `cliptrase convert`.\n{text}")
    try:
        records = load_records(read_dataset_file(output / DATASET_FILE))
        if len(records) != len(names):
            got = f"{len(records)} of {len(names)} pictures are found again"
            raise InputError(output / LIST_FILE, got, "Rename pictures whose names differ only in folders or suffixes.")
    except InputError:
        (output / DATASET_FILE).unlink()
        raise


def _list_lines(spec: DatasetSpec, names: Sequence[str]) -> list[str]:
    """Return a line for each picture: its name, or the end of its path if there are several folders."""
    if "*" not in str(spec.images):
        return [PurePosixPath(name).name for name in names]
    folder = PurePosixPath(*takewhile(lambda part: "*" not in part, spec.images.parts)).name
    start = "" if folder in ("", "..") else f"{folder}/"  # tells a picture from one of the same name in a subfolder
    return [start + name for name in names]


def _list_folder(images: Path, names: Sequence[str]) -> set[str]:
    """Return the pictures in the folders of listed ones, relative to the common folder."""
    folders = {PurePosixPath(name).parent for name in names}
    files = [(folder, path) for folder in folders for path in (images / folder).iterdir()]
    return {(folder / path.name).as_posix() for folder, path in files if path.suffix.lower() in IMAGE_SUFFIXES}
