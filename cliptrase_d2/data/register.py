"""Registration of data sets in Detectron2's catalogs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cliptrase_d2.d2 import DatasetCatalog, MetadataCatalog
from cliptrase_d2.data.custom import ClassGroups, DatasetSpec
from cliptrase_d2.data.labels import LabelRule
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vocabulary import Vocabulary


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
    """Register a folder of images, a folder of label files and a class list.

    Args:
        name: unique name, also of the results folder.
        images: folder, or a pattern such as ``images/val_*`` or ``images/*/*`` for parts of one or more folders.
        classes: class names in evaluation order; "a;b" are synonyms of one class.
        labels: folder or pattern of the label files, which have the stems of their images; None for prediction only.
        ignore_label: class index and raw label value of pixels that are not scored.
        label_map: raw label value -> class index or ignore label; None if the files hold class indices.
        background: prompts of a last class named "background"; empty for no background class.
        groups: name -> classes that are also scored separately, for example {"things": [...], "stuff": [...]}.
        image_suffix: ending of every image stem that its label file does not share.
        label_suffix: the same for the labels.
        image_list: text file with one stem per line. Other files are ignored. None for all.
    Returns:
        The name, for ``DATASETS.TEST``.
    Raises:
        InputError: the description is invalid, or the name belongs to another data set.
    """
    groups = groups or {}
    if any(isinstance(names, str) for names in (classes, background, *groups.values())):
        raise InputError(f"data set {name!r}", "one string instead of class names", "Put the names in a list.")
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
    """Register a data set. Its folders are listed at its first use. Registering it again has no effect.

    Returns:
        The name, for ``DATASETS.TEST``.
    Raises:
        InputError: the name belongs to another data set.
    """
    metadata = MetadataCatalog.get(spec.name)
    if spec.name in DatasetCatalog.list():
        if metadata.get("spec") != spec:
            raise InputError(spec.where, f"another data set is named {spec.name!r}", "Choose another name.")
        return spec.name
    DatasetCatalog.register(spec.name, lambda: load_records(spec))
    metadata.set(
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


def get_dataset_labels(name: str) -> tuple[Vocabulary, LabelRule]:
    """Return the classes of a registered data set, Detectron2's own included, and the meaning of its label values.

    Raises:
        InputError: the data set has no class names.
    """
    metadata = MetadataCatalog.get(name)
    vocabulary = metadata.get("vocabulary")
    if vocabulary is None:
        vocabulary = Vocabulary.parse(metadata.get("stuff_classes", []), where=f"data set {name!r}")
    options = (metadata.get("ignore_label", 255), metadata.get("label_map"), metadata.get("unscored_if_only"))
    return vocabulary, LabelRule(len(vocabulary.classes), *options)


def get_dataset_groups(name: str) -> ClassGroups:
    """Return the class indices of each group of a registered data set; empty if it has no groups."""
    return MetadataCatalog.get(name).get("class_groups", {})


def load_records(spec: DatasetSpec) -> list[dict[str, str]]:
    """List a data set in Detectron2's format: ``file_name`` and, with labels, ``sem_seg_file_name``.

    Raises:
        InputError: a folder cannot be used, or a file has no partner.
    """
    files = spec.find_files()
    if files.unpaired:
        kind = files.unpaired[0][1]
        raise spec.unpaired_error([path for path, partner in files.unpaired if partner == kind], kind)
    return files.records
