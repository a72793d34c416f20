"""The data sets that are known by name, without a data-set file: the emoji scenes, and the benchmarks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from cliptrase_d2.d2 import DatasetCatalog
from cliptrase_d2.data.benchmarks import DETECTRON2_NAMES, ROOT_VARIABLE, benchmark_root
from cliptrase_d2.data.custom import DatasetSpec
from cliptrase_d2.data.emoji_scenes.files import (
    NAME,
    TRAINING_NAME,
    TRAINING_SCENES,
    TRAINING_SEED,
    dataset_specs,
    training_spec,
)
from cliptrase_d2.data.register import register_spec
from cliptrase_d2.data.unsupervised_benchmarks import known_benchmarks

# A clone of the repository brings its scenes, in a folder beside the package.
_CLONE = Path(__file__).resolve().parents[2] / "datasets"


def register_builtin() -> None:
    """Register the built-in data sets; a name that is taken stays as it is. Nothing is read until one is asked for.

    As in Detectron2 they lie where the environment variable DETECTRON2_DATASETS says, by default in ``datasets`` of
    the working directory. The emoji scenes, if they do not, in the clone that this package is part of.
    """
    for spec in (*_emoji_scenes(), *_benchmarks()):
        if spec.name not in DatasetCatalog.list():
            register_spec(spec)


def _emoji_scenes() -> Iterator[DatasetSpec]:
    places = [benchmark_root() / NAME, _CLONE / NAME]
    root = next((place for place in places if place.is_dir()), places[0])
    remedy = (
        f"Run 'python datasets/prepare_emoji_scenes.py {root}', or set {ROOT_VARIABLE} to the folder that has {NAME}/."
    )
    for spec in dataset_specs(root).values():
        yield replace(spec, if_missing=remedy)
    folder = benchmark_root() / TRAINING_NAME
    options = f"--split seen --count {TRAINING_SCENES} --seed {TRAINING_SEED}"
    remedy = f"Run 'python datasets/prepare_emoji_scenes.py {folder} {options}'; it takes a minute."
    yield replace(training_spec(folder), if_missing=remedy)


def _benchmarks() -> Iterator[DatasetSpec]:
    for benchmark in (*known_benchmarks().values(), *DETECTRON2_NAMES):
        yield benchmark.spec(benchmark_root())
