"""Puts a data set into Detectron2's catalogs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cliptrase_d2.d2 import DatasetCatalog, MetadataCatalog
from cliptrase_d2.data.custom import DatasetSpec
from cliptrase_d2.data.files import LABEL_SUFFIXES
from cliptrase_d2.data.groups import ClassGroups
from cliptrase_d2.data.labels import LabelRule
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vocabulary import Vocabulary

_SHOWN = 3  # files named in one message


def register_dataset(
    name: str,
    images: str | Path,
    classes: Sequence[str],
    labels: str | Path | None = None,
    *,
    ignore_label: int = 255,
    label_map: Mapping[int, int] | None = None,
    background: Sequence[str] = (),
    groups: Mapping[str, Sequence[str]] | None = None,
    image_suffix: str = "",
    label_suffix: str = "",
    image_list: str | Path | None = None,
) -> str:
    """Register a folder of images, a folder of labels and a class list.

    Args:
        name: unique; results are written to a folder of this name.
        images: folder of images, or a part of one or of several as a pattern: ``images/val_*``, ``images/*/*``.
        classes: class names in evaluation order, "a;b" are synonyms of one class.
        labels: folder of label files of the same stems, or a part of one; None for prediction only.
        ignore_label: class index and raw value of pixels that are not scored.
        label_map: raw label value -> class index or ignore label; None where files hold class indices.
        background: prompts of a last class "background"; none for no such class.
        groups: name -> classes that are also scored apart, {"things": [...], "stuff": [...]} for example.
        image_suffix: end of the stem of every image, which its label file does not share.
        label_suffix: the same for the labels.
        image_list: text file of the stems that the data set consists of, one per line; None for all of the folder.
    Returns:
        The name, for ``DATASETS.TEST``.
    Raises:
        InputError: a description that cannot be, or another data set under this name.
    """
    groups = groups or {}
    if any(isinstance(names, str) for names in (classes, background, *groups.values())):
        raise InputError(
            f"data set {name!r}", "classes as one string", "Put them in a list.", allowed="a list of names"
        )
    return register_spec(
        DatasetSpec(
            name,
            Path(images),
            tuple(classes),
            None if labels is None else Path(labels),
            ignore_label,
            label_map,
            tuple(background),
            {group: tuple(members) for group, members in groups.items()},
            image_suffix,
            label_suffix,
            None if image_list is None else Path(image_list),
        )
    )


def register_spec(spec: DatasetSpec) -> str:
    """Register a data set; once more does nothing. Its folders are listed when it is first asked for.

    Returns:
        The name, for ``DATASETS.TEST``.
    Raises:
        InputError: another data set under this name.
    """
    if spec.name in DatasetCatalog.list():
        if MetadataCatalog.get(spec.name).get("spec") != spec:
            raise InputError(
                spec.where,
                f"the name {spec.name!r}, which another data set has",
                "Choose another name.",
                allowed="a new name",
            )
        return spec.name
    DatasetCatalog.register(spec.name, lambda: load_records(spec))
    MetadataCatalog.get(spec.name).set(
        spec=spec,
        stuff_classes=list(spec.vocabulary.classes),
        vocabulary=spec.vocabulary,
        ignore_label=spec.ignore_label,
        label_map=spec.label_map,
        unscored_if_only=spec.unscored_if_only,
        class_groups=spec.class_groups,
        evaluator_type="sem_seg",
    )
    return spec.name


def dataset_labels(name: str) -> tuple[Vocabulary, LabelRule]:
    """The classes of a registered data set, ours or one of Detectron2's own, and how its labels are read.

    Raises:
        InputError: a data set that names no classes.
    """
    metadata = MetadataCatalog.get(name)
    vocabulary = metadata.get("vocabulary") or Vocabulary.parse(
        metadata.get("stuff_classes", []), where=f"data set {name!r}"
    )
    return vocabulary, LabelRule(
        len(vocabulary.classes),
        metadata.get("ignore_label", 255),
        metadata.get("label_map", None),
        metadata.get("unscored_if_only", None),
    )


def dataset_groups(name: str) -> ClassGroups:
    """The groups of classes of a registered data set, as class indices; none if it has no such groups."""
    return MetadataCatalog.get(name).get("class_groups", {})


def load_records(spec: DatasetSpec) -> list[dict[str, str]]:
    """List the data set in Detectron2's form: ``file_name`` and, with labels, ``sem_seg_file_name``.

    Raises:
        InputError: a folder that cannot be used, or a file without its partner.
    """
    found = spec.find_files()
    if found.labels_without_image:
        raise no_image(found.labels_without_image, spec.images)
    if found.images_without_label:
        assert spec.labels is not None  # only a label folder can lack labels
        raise no_label(found.images_without_label, spec.labels)
    return found.records


def no_image(labels: Sequence[Path], images: Path) -> InputError:
    """The error for label files without their image."""
    return InputError(
        _names(labels),
        f"no image of that stem in {images}",
        "Add the image, or remove the label file.",
        allowed="an image for every label file",
    )


def no_label(images: Sequence[Path], labels: Path) -> InputError:
    """The error for images without their label file."""
    return InputError(
        _names(images),
        f"no label file of that stem in {labels}",
        "Add the label file, remove the image, or give no labels for prediction only.",
        allowed=f"a label file ({' '.join(LABEL_SUFFIXES)}) for every image",
    )


def _names(paths: Sequence[Path]) -> str:
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return ", ".join(str(path) for path in paths[:_SHOWN]) + more
