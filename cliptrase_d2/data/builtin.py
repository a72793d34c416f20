"""The data sets that are known by name, without a data-set file: the emoji scenes and each of their splits."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from cliptrase_d2.d2 import DatasetCatalog
from cliptrase_d2.data.emoji_scenes.files import NAME, dataset_specs
from cliptrase_d2.data.register import register_spec

ROOT_VARIABLE = "DETECTRON2_DATASETS"
# A clone of the repository brings its scenes, in a folder beside the package.
_CLONE = Path(__file__).resolve().parents[2] / "datasets"


def register_builtin() -> None:
    """Register the built-in data sets; a name that is taken stays as it is. Nothing is read until one is asked for.

    As in Detectron2 they lie where the environment variable DETECTRON2_DATASETS says, by default in ``datasets`` of
    the working directory; if they do not, in the clone that this package is part of.
    """
    root = _root(NAME)
    remedy = (
        f"Run 'python datasets/prepare_emoji_scenes.py {root}', or set {ROOT_VARIABLE} to the folder that has {NAME}/."
    )
    for spec in dataset_specs(root).values():
        if spec.name not in DatasetCatalog.list():
            register_spec(replace(spec, if_missing=remedy))


def _root(name: str) -> Path:
    """The first place that has the folder, or else the first."""
    places = [Path(os.environ.get(ROOT_VARIABLE, "datasets")).expanduser() / name, _CLONE / name]
    return next((place for place in places if place.is_dir()), places[0])
