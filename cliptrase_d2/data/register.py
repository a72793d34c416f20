"""Registration of data sets in Detectron2's catalogs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cliptrase_d2.d2 import DatasetCatalog, MetadataCatalog
from cliptrase_d2.data.custom import ClassGroups, DatasetSpec
from cliptrase_d2.data.labels import INDEX, LabelRule
from cliptrase_d2.data.rendering import NO_RENDERING, Rendering
from cliptrase_d2.utils.errors import InputError, suggest
from cliptrase_d2.visualization.colours import ClassColours
from cliptrase_d2.vocabulary import BackgroundPrompts, ClassNames, Vocabulary, list_background, list_classes

_REGISTER = "Register it with register_dataset, or pass its file: --dataset D.yaml, in training --train-dataset D.yaml."


def register_dataset(
    name: str,
    images: str | Path,
    classes: ClassNames,
    labels: str | Path | None = None,
    *,
    ignore_label: int = 255,
    label_map: Mapping[int, int] | None = None,
    label_colors: Mapping[Any, Any] | str | Path | None = None,
    reduce_zero_label: bool = False,
    label_coding: str = INDEX,
    panoptic_json: str | Path | None = None,
    background: BackgroundPrompts = (),
    groups: Mapping[str, Sequence[str]] | None = None,
    image_suffix: str = "",
    label_suffix: str = "",
    image_list: str | Path | None = None,
    unknown: str = "",
    bands: Sequence[int] = (),
    stretch: Sequence[float | str] = (),
) -> str:
    """Register a folder of images, a folder of label files and a class list.

    Args:
        name: unique name, also of the results folder.
        images: folder, or a pattern such as ``images/val_*`` or ``images/*/*`` for parts of one or more folders.
        classes: class names in evaluation order, in which "a;b" are synonyms of one class; or {"a": ["b"]}.
        labels: folder or pattern of the label files, which have the stems of their images; None for prediction only.
        ignore_label: class index and raw label value of pixels that are not scored.
        label_map: raw label value -> class index or ignore label; None if the files hold class indices.
        label_colors: (r, g, b) -> class, or the path of a tool's table of colours, or "@voc" or "@cityscapes".
        reduce_zero_label: 0 is unlabelled in the files, and class index i is i + 1.
        label_coding: "index", or "ade20k_full" for ADE20K's full annotations.
        panoptic_json: COCO's description of panoptic PNG files in ``labels``.
        background: prompts of a last class named "background", or the name of a ready list; empty for no such class.
        groups: name -> classes that are also scored separately, for example {"things": [...], "stuff": [...]}.
        image_suffix: ending of every image stem that its label file does not share.
        label_suffix: the same for the labels.
        image_list: text file with one image per line: a stem, a name or a path, alone or followed by its label. Other
            files are ignored. None for all.
        unknown: class that pixels below TEST.THRESHOLD count as; "" for none, so that they count as wrong.
        bands: numbers of the bands for red, green and blue, counted from 1, or of one for grey; empty for the colours
            of the file.
        stretch: the values that become black and white: raw values, or percentiles such as "2%"; empty for the full
            range of 8 or 16 bits.
    Returns:
        The name, for ``DATASETS.TEST``.
    Raises:
        InputError: the description is invalid, or the name belongs to another data set.
    """
    groups = groups or {}
    if any(isinstance(names, str) for names in groups.values()):
        raise InputError(f"data set {name!r}", "one string instead of class names", "Put the names in a list.")
    return register_spec(
        DatasetSpec(
            name,
            Path(images),
            list_classes(classes, f"data set {name!r}"),
            None if labels is None else Path(labels),
            ignore_label=ignore_label,
            label_map=label_map,
            label_colors=label_colors,
            reduce_zero_label=reduce_zero_label,
            label_coding=label_coding,
            panoptic_json=None if panoptic_json is None else Path(panoptic_json),
            background=list_background(background),
            groups={group: tuple(members) for group, members in groups.items()},
            image_suffix=image_suffix,
            label_suffix=label_suffix,
            image_list=None if image_list is None else Path(image_list),
            unknown=unknown,
            bands=bands,
            stretch=stretch,
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
    rule = spec.label_rule
    colours = ClassColours(spec.vocabulary.classes).assign(range(len(spec.vocabulary.classes)))
    metadata.set(
        spec=spec,
        stuff_classes=list(spec.vocabulary.classes),
        stuff_colors=colours.tolist(),  # for Detectron2's Visualizer
        vocabulary=spec.vocabulary,
        ignore_label=spec.ignore_label,
        label_map=rule.label_map,
        label_coding=rule.coding,
        unscored_if_only=spec.unscored_if_only,
        class_groups=spec.class_groups,
        unknown_class=spec.unknown_class,
        rendering=spec.rendering,
        evaluator_type="sem_seg",
    )
    return spec.name


def require_registered(name: str, key: str = "dataset_name") -> None:
    """Check that a data set is registered. `MetadataCatalog.get` would return empty metadata for an unknown name.

    Args:
        name: of the data set.
        key: argument or configuration key that has the name.
    Raises:
        InputError: it is not. The error lists similar names or, if there are none, all data sets with class names.
    """
    registered = DatasetCatalog.list()
    if name not in registered:
        names = sorted(known for known in registered if MetadataCatalog.get(known).get("stuff_classes"))
        fix = suggest(name, names, _REGISTER)
        allowed = (", ".join(names) or "none") if fix == _REGISTER else None
        raise InputError(key, f"unknown data set {name!r}", fix, allowed)


def get_dataset_labels(name: str) -> tuple[Vocabulary, LabelRule]:
    """Return the classes of a registered data set, Detectron2's own included, and the meaning of its label values.

    Raises:
        InputError: the data set is not registered or has no class names.
    """
    require_registered(name)
    metadata = MetadataCatalog.get(name)
    vocabulary, names = metadata.get("vocabulary"), metadata.get("stuff_classes")
    if vocabulary is None:
        if not names:
            fix = "Choose a data set for semantic segmentation, or set stuff_classes in its metadata."
            raise InputError("dataset_name", f"the data set {name!r} has no class names", fix)
        vocabulary = Vocabulary.parse(names, where=f"data set {name!r}", allow_commas=True)
    options = {key: metadata.get(key) for key in ("label_map", "unscored_if_only")}
    coding = metadata.get("label_coding", INDEX)
    return vocabulary, LabelRule(len(vocabulary.classes), metadata.get("ignore_label", 255), coding=coding, **options)


def get_dataset_groups(name: str) -> ClassGroups:
    """Return the class indices of each group of a registered data set; empty if it has no groups.

    Raises:
        InputError: the data set is not registered.
    """
    require_registered(name)
    return MetadataCatalog.get(name).get("class_groups", {})


def get_unknown_class(name: str) -> int | None:
    """Return the index of the class that pixels below a threshold count as; None if the data set names none.

    Raises:
        InputError: the data set is not registered.
    """
    require_registered(name)
    return MetadataCatalog.get(name).get("unknown_class")


def get_rendering(name: str) -> Rendering:
    """Return how the raw values of a registered data set become colours.

    Raises:
        InputError: the data set is not registered.
    """
    require_registered(name)
    return MetadataCatalog.get(name).get("rendering", NO_RENDERING)


def load_records(spec: DatasetSpec) -> list[dict[str, Any]]:
    """List a data set in Detectron2's format: ``file_name``, ``meta`` and, with labels, ``sem_seg_file_name``.

    Panoptic records have ``segments_info``, too.

    Raises:
        InputError: a folder cannot be used, or a file has no partner.
    """
    files = spec.find_files()
    if files.unpaired:
        kind = files.unpaired[0][1]
        raise spec.unpaired_error([path for path, partner in files.unpaired if partner == kind], kind)
    return name_dataset(files.records, spec.name)


def name_dataset(records: Sequence[Mapping[str, Any]], name: str) -> list[dict[str, Any]]:
    """Return the records with the name of their data set, ``meta: {"dataset_name": name}`` as in the published SAN."""
    meta = {"dataset_name": name}  # one dict for all records
    return [{**record, "meta": meta} for record in records]
