"""Registration of the data sets that this package describes: the emoji scenes and the benchmarks."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from cliptrase_d2.d2 import DatasetCatalog, MetadataCatalog
from cliptrase_d2.data.benchmarks import (
    CLONE,
    DETECTRON2_NAMES,
    PUBLISHED_WORDS,
    ROOT_VARIABLE,
    get_all_benchmarks,
    get_benchmark_root,
)
from cliptrase_d2.data.custom import DatasetSpec
from cliptrase_d2.data.emoji_scenes import files as emoji_scenes
from cliptrase_d2.data.register import register_spec
from cliptrase_d2.vocabulary import SYNONYM_SEPARATOR

logger = logging.getLogger(__name__)
_PREPARE_SCENES = "Run 'cliptrase prepare emoji_scenes"


def register_builtin() -> None:
    """Register the data sets of this package. Names that are taken do not change, and no file is read.

    A warning names the data sets that another package registered with other class names.

    As in Detectron2, the data sets are in the folder DETECTRON2_DATASETS, by default ``datasets`` in the working
    directory. If it has no emoji scenes, those of the clone of the repository are used.
    """
    root = get_benchmark_root()
    folders = [root / emoji_scenes.NAME, CLONE / emoji_scenes.NAME]
    scenes, training_scenes = next(filter(Path.is_dir, folders), folders[0]), root / emoji_scenes.TRAINING_NAME
    fix = f"{_PREPARE_SCENES} {scenes}', or set {ROOT_VARIABLE} to the folder that has {emoji_scenes.NAME}/."
    options = f"--split seen --count {emoji_scenes.TRAINING_SCENES} --seed {emoji_scenes.TRAINING_SEED}"
    training_fix = f"{_PREPARE_SCENES} {training_scenes} {options}'. It takes a minute."
    others = []
    for spec in (
        *(replace(spec, if_missing=fix) for spec in emoji_scenes.build_specs(scenes).values()),
        replace(emoji_scenes.build_training_spec(training_scenes), if_missing=training_fix),
        *(row.spec(root) for row in (*get_all_benchmarks().values(), *DETECTRON2_NAMES, *PUBLISHED_WORDS)),
    ):
        if spec.name not in DatasetCatalog.list():
            register_spec(spec)
        elif _has_other_classes(spec):
            others.append(spec.name)
    if others:
        text = "%s: another package registered these names first, with other class names. Its class names are used."
        logger.warning(text, ", ".join(others))


def _has_other_classes(spec: DatasetSpec) -> bool:
    """Return whether another package registered the name of a data set with other class names."""
    metadata = MetadataCatalog.get(spec.name)
    names = [name.strip() for name in metadata.get("stuff_classes", [])]
    ours = [SYNONYM_SEPARATOR.join(words) for words in spec.vocabulary.words]
    return metadata.get("spec") is None and bool(names) and names != ours
