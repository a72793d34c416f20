"""Emoji scenes as files: images, label files and data-set files."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from cliptrase_d2.data.custom import DatasetSpec
from cliptrase_d2.data.emoji_scenes.names import CLASSES, HELD_OUT, SEEN_THINGS, STUFF, THINGS
from cliptrase_d2.data.emoji_scenes.scene import Scene, draw
from cliptrase_d2.data.emoji_scenes.splits import SPLITS, sample_layout
from cliptrase_d2.data.label_files import read_label
from cliptrase_d2.utils.atomic_files import atomic_write, atomic_write_text, remove_unfinished, wrap_os_errors
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.parallel import map_parallel

NAME = "emoji_scenes"
TRAINING_NAME = "emoji_scenes_train"
TRAINING_SCENES, TRAINING_SEED = 2000, 1
SHIPPED = {"seen": 48, "unseen_combination": 24, "held_out": 24}  # split -> scenes in this repository
SHIPPED_SIZE = 224
GROUPS = {"things": THINGS, "stuff": STUFF, "seen_things": SEEN_THINGS, "held_out_things": HELD_OUT}
_IMAGES, _LABELS = "images", "annotations"
SceneNumber = tuple[str, int]  # split and index
_MAX_DIFFERENCE = 0.01  # share of pixels; versions of OpenCV round edges differently


def build_specs(root: Path) -> dict[str, DatasetSpec]:
    """Describe the data sets in a folder of scenes: all scenes, and those of each split.

    Args:
        root: folder that `write_scenes` writes to. It need not exist.
    Returns:
        Name of the data-set file in ``root`` -> description.
    """
    specs = {"dataset.yaml": DatasetSpec(NAME, root / _IMAGES, CLASSES, root / _LABELS, groups=GROUPS)}
    for split in SPLITS:
        images, labels = root / _IMAGES / f"{split}_*", root / _LABELS / f"{split}_*"
        specs[f"{split}.yaml"] = DatasetSpec(f"{NAME}_{split}", images, CLASSES, labels, groups=GROUPS)
    return specs


def build_training_spec(root: Path) -> DatasetSpec:
    """Describe scenes for training a segmenter. The held-out things are not among their classes, so they stay unseen.

    Args:
        root: folder that `write_scenes` wrote to, with the split "seen" and another seed than the shipped scenes.
    """
    classes = STUFF + SEEN_THINGS  # same indices as in CLASSES, which ends with the held-out things
    return DatasetSpec(TRAINING_NAME, root / _IMAGES / "seen_*", classes, root / _LABELS / "seen_*")


def write_scenes(
    root: Path, counts: Mapping[str, int], *, size: int = SHIPPED_SIZE, seed: int = 0, workers: int = 1
) -> None:
    """Draw the first scenes of some splits into a folder and describe them. Existing scenes are not drawn again.

    Args:
        root: folder; created if it does not exist.
        counts: split -> number of scenes.
        size: side of the images in pixels.
        seed: of the series.
        workers: number of processes.
    Raises:
        InputError: a split is unknown, or the folder cannot be written or contains another series.
    """
    scenes = [(split, index) for split, count in counts.items() for index in range(count)]
    with wrap_os_errors(root):
        for folder in (root / _IMAGES, root / _LABELS):
            folder.mkdir(parents=True, exist_ok=True)
            remove_unfinished(folder)
        exists = {scene: all(path.is_file() for path in _get_paths(root, scene)) for scene in scenes}
        for scene in {scene[0]: scene for scene in scenes if exists[scene]}.values():  # one of each split
            _check_series(root, scene, size, seed)
        missing = [scene for scene in scenes if not exists[scene]]
        write = partial(write_scene, root, size, seed)
        for _ in map_parallel(write, missing, workers, title="Drawing", unit="scene", min_per_worker=1):
            pass
        for name, spec in build_specs(root).items():
            if spec.name == NAME or name.removesuffix(".yaml") in counts:
                atomic_write_text(root / name, _describe(spec, root))


def write_scene(root: Path, size: int, seed: int, scene: SceneNumber) -> None:
    """Draw one scene and write its label file and its image.

    Args:
        root: folder of the data set.
        size: side of the image in pixels.
        seed: of the series.
        scene: split and index.
    """
    drawing = _draw(scene, size, seed)
    image, label = _get_paths(root, scene)
    annotation = Image.fromarray(drawing.label)  # without a palette, through which Detectron2 reads other values
    atomic_write(label, lambda file: annotation.save(file, "PNG", optimize=True))
    atomic_write(image, lambda file: Image.fromarray(drawing.image).save(file, "WEBP", lossless=True, quality=75))


def _draw(scene: SceneNumber, size: int, seed: int) -> Scene:
    split, index = scene
    return draw(sample_layout(index, split, seed), size)


def _check_series(root: Path, scene: SceneNumber, size: int, seed: int) -> None:
    """Raise if an existing scene has another size or seed. It is drawn again and compared."""
    path = _get_paths(root, scene)[1]
    expected, label = _draw(scene, size, seed).label, read_label(path)
    if label.shape != expected.shape or np.mean(label != expected) > _MAX_DIFFERENCE:
        got = f"not a scene of {size} pixels and seed {seed}"
        raise InputError(path, got, "Choose another folder, or remove this one.")


def _get_paths(root: Path, scene: SceneNumber) -> tuple[Path, Path]:
    """Return the paths of the image and the label file."""
    stem = f"{scene[0]}_{scene[1]:03}"
    return root / _IMAGES / f"{stem}.webp", root / _LABELS / f"{stem}.png"


def _describe(spec: DatasetSpec, root: Path) -> str:
    """Return the text of a data-set file. Its paths are relative to the file."""
    assert spec.labels is not None  # scenes always have labels
    values = {
        "name": spec.name,
        "images": spec.images.relative_to(root).as_posix(),
        "labels": spec.labels.relative_to(root).as_posix(),
        "classes": list(spec.classes),
        "groups": {name: list(members) for name, members in spec.groups.items()},
    }
    text = yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=10_000)  # one line per list
    return f"# Written by datasets/prepare_emoji_scenes.py; train_net.py --dataset takes it.\n{text}"
