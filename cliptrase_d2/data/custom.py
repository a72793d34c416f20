"""Description of a data set, and the YAML file that it is read from."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from cliptrase_d2.class_files import read_class_file, sort_names
from cliptrase_d2.data.files import LABEL_SUFFIXES, DatasetFiles, find_files
from cliptrase_d2.data.label_colors import map_colors
from cliptrase_d2.data.label_names import add_label_indices
from cliptrase_d2.data.labels import ADE20K_FULL, COLORS, INDEX, PANOPTIC, LabelRule, reduce_zero_label
from cliptrase_d2.data.panoptic import add_segments, map_categories
from cliptrase_d2.data.rendering import Rendering
from cliptrase_d2.ready_vocabularies import MARK
from cliptrase_d2.utils.errors import InputError, name_arguments, suggest
from cliptrase_d2.utils.plain_yaml import load_plain_yaml
from cliptrase_d2.utils.user_files import read_text
from cliptrase_d2.vocabulary import Vocabulary, list_background, list_classes

logger = logging.getLogger(__name__)
ClassGroups = dict[str, tuple[int, ...]]
_REQUIRED_KEYS = ("name", "images", "classes")
_MAX_LISTED_FILES = 3  # in one error message


@dataclass(frozen=True)
class DatasetSpec:
    """A folder of images, a folder of label files with the same stems, and a class list.

    Attributes:
        name: unique name, also of the results folder.
        images: folder, or a pattern such as ``images/val_*`` or ``images/*/*`` for parts of one or more folders.
        classes: class names in evaluation order; "a;b" are synonyms of one class.
        labels: folder or pattern of the label files; None for prediction only.
        ignore_label: class index and raw label value of pixels that are not scored.
        label_map: raw label value -> class index or ignore label; None if the files hold class indices.
        label_colors: colour -> class, or a tool's table of colours, as in `map_colors`; None if the files hold numbers.
        reduce_zero_label: 0 is unlabelled in the files, and class index i is i + 1.
        label_coding: how the pixels hold raw values: "index", or "ade20k_full" for ADE20K's full annotations.
        panoptic_json: COCO's description of the panoptic PNG files in ``labels``. Its categories are raw values, or, if
            there is no ``label_map``, the classes of their names. None for no panoptic files.
        background: prompts of a last class named "background", "@name" for a ready list; empty for no such class.
        groups: name -> classes that are also scored separately, spelled as in ``classes``. Groups may overlap.
        image_suffix: ending of every image stem that its label file does not share, such as "_leftImg8bit".
        label_suffix: the same for the labels.
        image_list: text file with one stem (without ``image_suffix``) per line. Other files are ignored. None for all.
        unknown: class that pixels below TEST.THRESHOLD count as, spelled as in ``classes``; "" for none.
        bands: of the images, for red, green and blue or for grey, counted from 1; empty for the file's own colours.
        stretch: the values that become black and white, see `Rendering`; empty for the full range.
        leave_unlabelled: ignore images without a label file. By default they are an error.
        shares_words: background prompts may also be words of classes, as in published lists. A tie goes to the class,
            or, with the protocol "published", to the background.
        unscored_if_only: raw label value; an image whose cropped labels have only this value is not scored.
        source: file that the description was read from, for error messages.
        if_missing: what to do if a folder does not exist, for error messages.

    Raises:
        InputError: the description is invalid: a class appears twice or a label is mapped to no class, for example.
    """

    name: str
    images: Path
    classes: tuple[str, ...]
    labels: Path | None = None
    ignore_label: int = 255
    label_map: Mapping[int, int] | None = None
    label_colors: Mapping[Any, Any] | str | Path | None = None
    reduce_zero_label: bool = False
    label_coding: str = INDEX
    panoptic_json: Path | None = None
    background: tuple[str, ...] = ()
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    image_suffix: str = ""
    label_suffix: str = ""
    image_list: Path | None = None
    unknown: str = ""
    bands: Sequence[int] = ()
    stretch: Sequence[float | str] = ()
    leave_unlabelled: bool = False
    unscored_if_only: int | None = None
    shares_words: bool = False
    source: Path | None = field(default=None, compare=False)
    if_missing: str = field(default="Check the path.", compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch(r"\w[\w.-]{0,99}", self.name):
            allowed = "up to 100 letters, digits, '_', '-' and '.', starting with a letter, a digit or '_'"
            fix = "Rename the data set. In YAML, quote numbers and words such as yes and no."
            raise InputError(self.where, f"invalid name {self.name!r}", fix, allowed=allowed)
        _ = self.vocabulary  # computing it checks the class list, which is needed without labels too
        if self.labels is not None:
            self.label_rule.check(self.where)
        _ = self.class_groups, self.unknown_class, self.rendering  # computing them checks them

    @property
    def where(self) -> str:
        """How error messages refer to this data set."""
        return str(self.source) if self.source else f"data set {self.name!r}"

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The C classes with their synonyms, the background class last."""
        options = {"allow_commas": True, "allow_shared": self.shares_words}
        return Vocabulary.parse(self.classes, self.background, self.where, **options)

    @cached_property
    def class_groups(self) -> ClassGroups:
        """Class indices of each group."""
        return resolve_groups(self.groups, self.classes, self.vocabulary.classes, self.where)

    @cached_property
    def unknown_class(self) -> int | None:
        """Index of the class ``unknown``; None for none."""
        names = self.vocabulary.classes
        indices = {name: index for index, name in [*enumerate(self.classes), *enumerate(names)]}
        if not self.unknown:
            return None
        if not isinstance(self.unknown, str) or self.unknown not in indices:
            fix = "Spell it as in the class list, or remove the key."
            raise InputError(self.where, f"unknown: {self.unknown!r}, which is no class", fix, allowed=", ".join(names))
        return indices[self.unknown]

    @cached_property
    def rendering(self) -> Rendering:
        """How raw values of the images become colours."""
        with name_arguments({key: f"{self.where}: {key}" for key in ("bands", "stretch")}):
            return Rendering(self.bands, self.stretch)  # type: ignore[arg-type]  # becomes tuples

    @property
    def label_rule(self) -> LabelRule:
        """How raw label values become class indices.

        Raises:
            InputError: keys that exclude each other, or a table of colours or categories that does not fit the classes.
        """
        keys = ("label_map", "label_colors", "reduce_zero_label")
        if len(used := [key for key in keys if getattr(self, key) not in (None, False)]) > 1:
            raise InputError(self.where, " and ".join(used), "Keep one of them, since each says what the values mean.")
        label_map, coding, size = self.label_map, self.label_coding, len(self.vocabulary.classes)
        if self.reduce_zero_label is True:
            label_map = reduce_zero_label(size, self.ignore_label)
        elif self.reduce_zero_label is not False:
            raise InputError(self.where, f"reduce_zero_label {self.reduce_zero_label!r}", "Write true or false.")
        if self.label_colors is not None:
            coding = COLORS if coding == INDEX else coding
            label_map = map_colors(self.label_colors, self.vocabulary, self.ignore_label, self.where)
        if self.panoptic_json is not None:
            coding = PANOPTIC if coding == INDEX else coding
            if label_map is None:
                label_map = map_categories(self.panoptic_json, self.vocabulary)
        if coding not in (INDEX, ADE20K_FULL) and (self.label_colors is None) == (self.panoptic_json is None):
            fix = "Keep one of label_coding, label_colors and panoptic_json."
            raise InputError(self.where, f"label_coding {coding}", fix, allowed=f"{INDEX} or {ADE20K_FULL}")
        return LabelRule(size, self.ignore_label, label_map, self.unscored_if_only, coding)

    def find_files(self) -> DatasetFiles:
        """List the images and label files.

        Raises:
            InputError: as `cliptrase_d2.data.files.find_files`.
        """
        suffixes = {"image_suffix": self.image_suffix, "label_suffix": self.label_suffix}
        files = find_files(self.images, self.labels, self.if_missing, image_list=self.image_list, **suffixes)
        if self.panoptic_json is not None and self.labels is not None:
            files = replace(files, records=add_segments(files.records, self.panoptic_json))
        elif self.labels is not None and self.label_rule.label_map is None:
            records = add_label_indices(files.records, self.vocabulary, self.ignore_label)
            files = replace(files, records=records)
        if self.leave_unlabelled:
            files = replace(files, unpaired=tuple(pair for pair in files.unpaired if pair[1] != "label file"))
        return files

    def unpaired_error(self, paths: Sequence[Path], partner: str) -> InputError:
        """Return the error for files without a partner.

        Args:
            paths: the files.
            partner: the kind of file that is missing, "image" or "label file".
        """
        names = ", ".join(map(str, paths[:_MAX_LISTED_FILES]))
        if len(paths) > _MAX_LISTED_FILES:
            names += f" and {len(paths) - _MAX_LISTED_FILES} more"
        if partner == "image":
            return InputError(names, f"no image with this stem in {self.images}", "Add it, or remove the label file.")
        fix = "Add it, select the images with a pattern such as data/*.jpg, or omit labels for prediction only."
        got = f"no label file with this stem in {self.labels}"
        return InputError(names, got, fix, allowed=" ".join(LABEL_SUFFIXES))


def resolve_groups(
    groups: Mapping[str, Sequence[str]], entries: Sequence[str], names: Sequence[str], where: object
) -> ClassGroups:
    """Return the class indices of each group.

    Args:
        groups: group name -> classes, each by its name or as the class list spells it.
        entries: the class list as written, where "a;b" is class "a".
        names: C class names, those of ``entries`` first.
        where: source of the groups, for error messages.
    Raises:
        InputError: a group has no name or no classes, or a class is unknown or appears twice.
    """
    indices = {name: index for index, name in enumerate(names)} | {entry: index for index, entry in enumerate(entries)}
    resolved: ClassGroups = {}
    for group, members in groups.items():
        if not isinstance(group, str) or not group.strip():
            raise InputError(where, f"invalid group name {group!r}", "Give every group a name. In YAML, quote it.")
        if not members:
            raise InputError(where, f"group {group!r} has no classes", "Add a class, or remove the group.")
        for member in members:
            if not isinstance(member, str) or member not in indices:
                got = f"unknown class {member!r} in group {group!r}"
                raise InputError(where, got, "Spell it as in the class list.", allowed=", ".join(names))
        resolved[group] = tuple(indices[member] for member in members)
        if len(set(resolved[group])) < len(members):
            twice = next(names[index] for index in resolved[group] if resolved[group].count(index) > 1)
            raise InputError(where, f"class {twice!r} appears twice in group {group!r}", "Remove one of them.")
    return resolved


def read_dataset_file(path: str | Path) -> DatasetSpec:
    """Read the description of a data set from a YAML or JSON file.

    Args:
        path: file with the keys ``DATASET_KEYS``. Its paths are relative to the file. In JSON, whose keys are strings,
            the keys of ``label_map`` are numbers in quotes.
    Raises:
        InputError: the file does not exist or is not valid YAML or JSON, or a key or value is invalid or missing.
    """
    path = Path(path)
    values = _read_plain(path)
    if not isinstance(values, dict):
        got = f"{type(values).__name__} instead of keys"
        raise InputError(path, got, "Write one 'key: value' per line.", allowed=", ".join(DATASET_KEYS))
    for key in values:
        if key not in DATASET_KEYS:
            fix = suggest(key, DATASET_KEYS, "Remove it.")
            raise InputError(path, f"unknown key {key!r}", fix, allowed=", ".join(DATASET_KEYS))
    if missing := [key for key in _REQUIRED_KEYS if values.get(key) is None]:
        raise InputError(path, f"no {' and no '.join(missing)}", f"Add the missing keys: {', '.join(missing)}.")
    return DatasetSpec(**{key: _CONVERTERS[key](value, key, path) for key, value in values.items()}, source=path)


def _read_plain(path: Path) -> Any:
    """Return the content of a YAML or JSON file, with the label map of a JSON file by numbers."""
    text = read_text(path)
    values = load_plain_yaml(text.replace("\t", " ") if path.suffix.lower() == ".json" else text, path)
    label_map = values.get("label_map") if isinstance(values, dict) else None
    if path.suffix.lower() == ".json" and isinstance(label_map, dict):
        values["label_map"] = {
            int(raw) if isinstance(raw, str) and re.fullmatch(r"-?\d{1,10}", raw) else raw: index
            for raw, index in label_map.items()
        }
    return values


def _keep(value: Any, key: str, path: Path) -> Any:
    return value  # `DatasetSpec` checks it


def _to_path(value: Any, key: str, path: Path) -> Any:
    if value is None:
        return None
    if not isinstance(value, str):
        raise InputError(path, f"{key} {value!r}", "Write a path relative to this file, in quotes if necessary.")
    try:
        return path.parent / Path(value).expanduser()
    except RuntimeError as error:  # the user in "~user" does not exist
        raise InputError(path, f"{key} {value!r} ({error})", "Write the full path.") from error


def _to_text(value: Any, key: str, path: Path) -> str:
    if value and not isinstance(value, str):
        raise InputError(path, f"{key} {value!r}", "Write the ending of the file stems in quotes.")
    return str(value or "")


def _to_names(value: Any, key: str, path: Path) -> tuple[str, ...]:
    if value and not isinstance(value, list):
        raise InputError(path, f"{key} {value!r}", f"Write a list: {key}: [first, second].")
    return tuple(value or ())


def _to_classes(value: Any, key: str, path: Path) -> tuple[str, ...]:
    if isinstance(value, dict):
        is_indexed = all(type(index) is int and isinstance(name, str) for index, name in value.items())
        return sort_names(value.items(), path) if is_indexed else list_classes(value, path)
    if not isinstance(value, str):
        return _to_names(value, key, path)
    classes = read_class_file(file := _to_path(value, key, path))
    if commas := [name for name in classes if "," in name]:
        text = "%s: %d names contain commas, such as %r. A comma is part of the name, and ';' separates synonyms"
        logger.warning(text, file, len(commas), commas[0])
    return classes


def _to_colors(value: Any, key: str, path: Path) -> Any:
    if isinstance(value, str) and not value.startswith(MARK):
        return _to_path(value, key, path)
    if value is not None and not isinstance(value, str | dict):
        fix = "Write '[r, g, b]: class' for each colour, or the path of a tool's table."
        raise InputError(path, f"{key} {value!r}", fix)
    return value


def _to_background(value: Any, key: str, path: Path) -> tuple[str, ...]:
    return list_background(value) if isinstance(value, str) else _to_names(value, key, path)


def _to_groups(value: Any, key: str, path: Path) -> dict[str, tuple[str, ...]]:
    if value and not isinstance(value, dict):
        raise InputError(path, f"{key} {value!r}", "Write groups: {things: [first, second]}.")
    return {name: _to_names(members, f"groups: {name}", path) for name, members in (value or {}).items()}


_CONVERTERS: dict[str, Callable[[Any, str, Path], Any]] = {
    "name": _keep,
    "images": _to_path,
    "labels": _to_path,
    "classes": _to_classes,
    "ignore_label": _keep,
    "label_map": _keep,
    "label_colors": _to_colors,
    "reduce_zero_label": _keep,
    "label_coding": _keep,
    "panoptic_json": _to_path,
    "background": _to_background,
    "groups": _to_groups,
    "image_suffix": _to_text,
    "label_suffix": _to_text,
    "image_list": _to_path,
    "unknown": _keep,
    "bands": _to_names,
    "stretch": _to_names,
}
DATASET_KEYS = tuple(_CONVERTERS)
