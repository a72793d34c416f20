"""An own data set: what describes it, and the YAML file that a user writes it in."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from cliptrase_d2.data.files import FoundFiles, find_files
from cliptrase_d2.data.groups import ClassGroups, class_groups
from cliptrase_d2.data.labels import LabelRule
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.plain_yaml import PlainYAMLError, load_plain_yaml
from cliptrase_d2.utils.user_files import read_text
from cliptrase_d2.vocabulary import Vocabulary

DATASET_KEYS = (
    *("name", "images", "labels", "classes", "ignore_label", "label_map", "background", "groups"),
    *("image_suffix", "label_suffix", "image_list"),
)
_REQUIRED_KEYS = ("name", "images", "classes")


@dataclass(frozen=True)
class DatasetSpec:
    """A folder of images, a folder of labels of the same stems, and a class list.

    Attributes:
        name: unique, and the name of the folder that results are written to.
        images: folder of images, or a part of one or of several as a pattern: ``images/val_*``, ``images/*/*``.
        classes: class names in evaluation order, "a;b" are synonyms of one class.
        labels: folder of label files, or a part of one; None for prediction only.
        ignore_label: class index and raw value of pixels that are not scored.
        label_map: raw label value -> class index or ignore label; None where files hold class indices.
        background: prompts of a last class "background"; none for no such class.
        groups: name -> classes that are also scored apart, each as in ``classes``; a class may be in several.
        image_suffix: end of the stem of every image, which its label file does not share: "_leftImg8bit".
        label_suffix: the same for the labels.
        image_list: text file of stems, without ``image_suffix``, one per line; other files are left out. None for all.
        leave_unlabelled: images without a label file are left out, where they are an error otherwise.
        unscored_if_only: raw value; an image is not scored where no other is left of its labels after cropping.
        source: the file that this was read from, for error messages.
        if_missing: what to do where a folder is not there, for error messages.

    Raises:
        InputError: anything that cannot be, such as a class named twice or a mapped label beyond the classes.
    """

    name: str
    images: Path
    classes: tuple[str, ...]
    labels: Path | None = None
    ignore_label: int = 255
    label_map: Mapping[int, int] | None = None
    background: tuple[str, ...] = ()
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    image_suffix: str = ""
    label_suffix: str = ""
    image_list: Path | None = None
    leave_unlabelled: bool = False
    unscored_if_only: int | None = None
    source: Path | None = field(default=None, compare=False)
    if_missing: str = field(default="Check it.", compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch(r"\w[\w.-]{0,99}", self.name):
            raise InputError(
                self.where,
                f"the name {self.name!r}",
                "Rename it (in YAML quote a name that reads as a number or as yes/no).",
                allowed="up to 100 letters, digits, '_', '-' and '.', for a folder is named after it",
            )
        rule = self.label_rule  # reading the property checks the class list, with or without labels
        if self.labels is not None:
            rule.check(self.where)
        _ = self.class_groups  # reading it checks the groups

    @property
    def where(self) -> str:
        """What error messages call this data set."""
        return str(self.source) if self.source else f"data set {self.name!r}"

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The C classes with their words, the background class last."""
        return Vocabulary.parse(self.classes, self.background, self.where)

    @cached_property
    def class_groups(self) -> ClassGroups:
        """Class indices of every group."""
        return class_groups(self.groups, self.classes, self.vocabulary.classes, self.where)

    @property
    def label_rule(self) -> LabelRule:
        """How raw label values become class indices."""
        return LabelRule(len(self.vocabulary.classes), self.ignore_label, self.label_map, self.unscored_if_only)

    def find_files(self) -> FoundFiles:
        """List the folders.

        Raises:
            InputError: a folder that is missing or holds nothing usable, two files of one stem, or no image of a stem
                that ``image_list`` names.
        """
        found = find_files(
            self.images,
            self.labels,
            self.if_missing,
            image_suffix=self.image_suffix,
            label_suffix=self.label_suffix,
            image_list=self.image_list,
        )
        return replace(found, images_without_label=()) if self.leave_unlabelled else found


def read_dataset_file(path: str | Path) -> DatasetSpec:
    """Read the description of a data set from a YAML file.

    Args:
        path: file with the keys ``DATASET_KEYS``; folders in it are relative to the file.
    Raises:
        InputError: no such file, no valid YAML, an unknown or missing key, or a value that cannot be.
    """
    path = Path(path)
    values = _read_yaml(path)
    _check_keys(values, path)
    classes = values["classes"]
    return DatasetSpec(
        name=values["name"],
        images=_path(values["images"], "images", path),
        classes=read_class_file(_path(classes, "classes", path))
        if isinstance(classes, str)
        else _names(classes, "classes", path),
        labels=None if values.get("labels") is None else _path(values["labels"], "labels", path),
        ignore_label=values.get("ignore_label", 255),
        label_map=values.get("label_map"),
        background=_names(values.get("background") or [], "background", path),
        groups=_groups(values.get("groups") or {}, path),
        image_suffix=_text(values.get("image_suffix") or "", "image_suffix", path),
        label_suffix=_text(values.get("label_suffix") or "", "label_suffix", path),
        image_list=None if values.get("image_list") is None else _path(values["image_list"], "image_list", path),
        source=path,
    )


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = load_plain_yaml(read_text(path))
    except PlainYAMLError as error:
        raise InputError(
            path, f"no valid YAML ({error})", "Correct the line.", allowed="a file of plain YAML"
        ) from error
    if not isinstance(values, dict):
        raise InputError(
            path,
            f"{type(values).__name__} in place of keys",
            "Write 'key: value'.",
            allowed=f"keys {', '.join(DATASET_KEYS)}",
        )
    return values


def _check_keys(values: dict[str, Any], path: Path) -> None:
    for key in values:
        if key not in DATASET_KEYS:
            close = difflib.get_close_matches(str(key), DATASET_KEYS, n=1)
            fix = f"Did you mean {close[0]!r}?" if close else "Remove it."
            raise InputError(path, f"the unknown key {key!r}", fix, allowed=", ".join(DATASET_KEYS))
    missing = [key for key in _REQUIRED_KEYS if values.get(key) is None]
    if missing:
        raise InputError(
            path, f"no {' and no '.join(missing)}", "Add them.", allowed=f"at least {', '.join(_REQUIRED_KEYS)}"
        )


def _path(value: object, key: str, path: Path) -> Path:
    if not isinstance(value, str):
        raise InputError(
            path, f"{key} {value!r}", "Write a path, in quotes if need be.", allowed="a path, relative to this file"
        )
    try:
        return path.parent / Path(value).expanduser()
    except RuntimeError as error:  # "~nobody"
        raise InputError(
            path, f"{key} {value!r}", f"Write it out ({error}).", allowed="a path, relative to this file"
        ) from error


def _text(value: object, key: str, path: Path) -> str:
    if not isinstance(value, str):
        raise InputError(path, f"{key} {value!r}", "Put it in quotes.", allowed="the end of a file name, as text")
    return value


def _names(value: object, key: str, path: Path) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise InputError(path, f"{key} {value!r}", f"Write {key}: [first, second].", allowed="a list of names")
    return tuple(value)


def _groups(value: object, path: Path) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, dict):
        raise InputError(
            path,
            f"groups {value!r}",
            "Write groups: {things: [first, second]}.",
            allowed="group names with lists of classes",
        )
    return {name: _names(members, f"groups: {name}", path) for name, members in value.items()}


def read_class_file(path: Path) -> tuple[str, ...]:
    """Read a text file of one class per line.

    Raises:
        InputError: no such file, or an empty line between others.
    """
    lines = [line.strip() for line in read_text(path).rstrip().splitlines()]
    if "" in lines:
        raise InputError(
            path,
            f"line {lines.index('') + 1} is empty",
            "Remove it or name the class.",
            allowed="one class name per line",
        )
    return tuple(lines)
