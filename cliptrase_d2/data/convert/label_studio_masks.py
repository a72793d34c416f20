"""Label Studio's export "Brush labels to PNG": one mask of 0 and 255 for each label of each task."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from cliptrase_d2.data.convert import label_studio
from cliptrase_d2.data.convert.json_files import load_json
from cliptrase_d2.data.convert.pictures import clean_name, list_classes
from cliptrase_d2.data.convert.shapes import EMPTY
from cliptrase_d2.data.convert.source import Layer, Notes, Options, Picture, Source
from cliptrase_d2.data.files import IMAGE_SUFFIXES
from cliptrase_d2.data.label_files import read_label
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.user_files import read_text
from cliptrase_d2.vocabulary import Vocabulary

FORMAT = "label-studio-masks"
ORDER = "larger masks first, so that smaller ones are on top"
_NAME = re.compile(r"task-(?P<task>\d+)-annotation-(?P<annotation>\d+)-by-[^-]*-(?P<tag>[^-]+)-(?P<label>.+)-\d+\.png")
_OPAQUE = 128


class Mask(NamedTuple):
    """A file, and the label in its name."""

    path: Path
    label: str


def recognises(name: str) -> bool:
    """Return whether a file has the name of such a mask."""
    return _NAME.fullmatch(name) is not None


def read(folder: Path, options: Options) -> Source:
    """Read the names of the masks of a folder.

    The names do not contain those of the pictures. They come from --tasks, from Label Studio's JSON export in the same
    folder, or from the pictures, if these are named after their tasks ("1.jpg" or "task-1.jpg").

    Args:
        folder: of the masks.
        options: of the user.
    Raises:
        InputError: the picture of a task is unknown or missing.
    """
    notes = Notes()
    by_task: dict[int, dict[int, list[Mask]]] = defaultdict(lambda: defaultdict(list))
    known = Vocabulary.parse(options.classes, where="--classes", allow_commas=True).prompts if options.classes else ()
    for path in sorted(folder.iterdir()):
        if match := _NAME.fullmatch(path.name):
            label = _find_label(match["tag"], match["label"], known)
            by_task[int(match["task"])][int(match["annotation"])].append(Mask(path, label))
    latest = {task: annotations[max(annotations)] for task, annotations in sorted(by_task.items())}
    labels = sorted({mask.label for masks in latest.values() for mask in masks})
    classes, by_name = list_classes(labels, options.classes, folder)
    candidates = _find_candidates(list(latest), folder, options)
    folders = (folder, folder / "images", folder.parent / "images")
    root, names = label_studio.find_pictures(candidates, options.images, folders, folder)
    pictures = []
    for task, name in zip(latest, names, strict=True):
        if len(by_task[task]) > 1:
            notes.add(label_studio.SEVERAL, f"{folder}: task {task}")
        pictures.append(Picture(name, f"{folder}: task {task}", None, latest[task]))
    return Source(FORMAT, root, classes, pictures, partial(draw, indices=by_name), ORDER, notes)


def _find_label(tag: str, label: str, known: Sequence[str]) -> str:
    """Return the label in a name such as "tag-soccer ball", whose first part may itself contain "-"."""
    text = f"{tag}-{label}"
    endings = [name for name in known if text.endswith(f"-{name.replace('/', '-')}")]
    return max(endings, key=len, default=label)


def _find_candidates(tasks: list[int], folder: Path, options: Options) -> list[list[str]]:
    """Return the possible paths of the picture of each task."""
    listed: dict[int, list[str]] = {}
    for path in [options.tasks] if options.tasks else sorted(folder.glob("*.json")):
        listed |= _read_tasks(path)
    if not listed:
        places = [options.images] if options.images else [folder, folder / "images", folder.parent / "images"]
        listed = _list_named_after_tasks(places)
    if missing := [task for task in tasks if task not in listed]:
        fix = "Add Label Studio's JSON export to the folder, or give --tasks FILE with lines such as '1 a.jpg'."
        raise InputError(folder, f"no name of the picture of task {missing[0]}", fix)
    return [listed[task] for task in tasks]


def _list_named_after_tasks(folders: Sequence[Path]) -> dict[int, list[str]]:
    """Return the pictures with names such as "1.jpg" or "task-1.jpg" by their numbers."""
    paths = [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())]
    found: dict[int, list[str]] = defaultdict(list)
    for path in paths:
        number = path.stem.removeprefix("task-")
        if path.suffix.lower() in IMAGE_SUFFIXES and number.isdecimal():
            found[int(number)].append(path.name)
    return found


def _read_tasks(path: Path) -> dict[int, list[str]]:
    """Return the possible paths of the picture of each task in a JSON export, or in lines such as "1 a.jpg"."""
    if path.suffix.lower() == ".json":
        content = load_json(path)
        if not label_studio.recognises(content):
            return {}
        tasks = [task for task in content if isinstance(task, dict)]
        return {
            task["id"]: label_studio.find_candidates(task, f"{path}: task {task['id']}")
            for task in tasks
            if isinstance(task.get("id"), int)
        }
    lines = [line.split(maxsplit=1) for line in read_text(path).splitlines() if line.strip()]
    if wrong := next((line for line in lines if len(line) < 2 or not line[0].isdecimal()), None):
        raise InputError(path, f"the line {' '.join(wrong)[:60]!r}", "Write lines such as '1 a.jpg'.")
    return {int(task): [clean_name(name.strip(), path)] for task, name in lines}


def draw(picture: Picture, size: tuple[int, int], notes: Notes, indices: dict[str, int]) -> list[Layer]:
    """Return the layers of a picture, the largest first.

    Args:
        picture: with a list of masks.
        size: its height and width.
        notes: on its masks.
        indices: class index of each label.
    Raises:
        InputError: a mask is broken or has another size.
    """
    drawn = []
    for path, label in picture.shapes:
        values = read_label(path)
        if values.shape != size:
            got = f"{values.shape[1]} x {values.shape[0]} pixels, but {picture.name} has {size[1]} x {size[0]}"
            raise InputError(path, got, "Check that the two belong together.")
        mask = values >= _OPAQUE if values.max() > 1 else values > 0
        if mask.any():
            drawn.append((-int(mask.sum()), Layer(indices[label], mask)))
        else:
            notes.add(EMPTY, path)
    return [layer for _, layer in sorted(drawn, key=lambda entry: entry[0])]
