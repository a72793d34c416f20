"""Emoji scenes as files: images, labels, and the data-set files that name them."""

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
from cliptrase_d2.data.emoji_scenes.splits import SPLITS, scene_layout
from cliptrase_d2.data.images import read_label
from cliptrase_d2.utils.atomic_files import atomic_write, atomic_write_text, remove_unfinished, wrap_os_errors
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.parallel import in_parallel
from cliptrase_d2.visualization.overlay import palette

NAME = "emoji_scenes"
TRAINING_NAME = "emoji_scenes_train"
TRAINING_SCENES, TRAINING_SEED = 2000, 1
# The scenes that this project ships.
SHIPPED = {"seen": 48, "unseen_combination": 24, "held_out": 24}
SHIPPED_SIZE = 224
GROUPS = {"things": THINGS, "stuff": STUFF, "seen_things": SEEN_THINGS, "held_out_things": HELD_OUT}
_IMAGES, _LABELS = "images", "annotations"
SceneNumber = tuple[str, int]  # split and index
_SAME = 0.01  # share of pixels by which one drawing may differ from another, as versions of OpenCV round edges apart


def dataset_specs(root: Path) -> dict[str, DatasetSpec]:
    """The data sets that a folder of scenes holds: all of them, and each split.

    Args:
        root: what `write_scenes` wrote to; it need not be there.
    Returns:
        File name of the description, in ``root`` -> description.
    """
    whole = DatasetSpec(NAME, root / _IMAGES, CLASSES, root / _LABELS, groups=GROUPS)
    parts = {
        split: DatasetSpec(
            f"{NAME}_{split}", root / _IMAGES / f"{split}_*", CLASSES, root / _LABELS / f"{split}_*", groups=GROUPS
        )
        for split in SPLITS
    }
    return {"dataset.yaml": whole, **{f"{split}.yaml": spec for split, spec in parts.items()}}


def training_spec(root: Path) -> DatasetSpec:
    """Scenes to train a segmenter on: without the things that are held out, which it then meets as unseen classes.

    Args:
        root: what `write_scenes` wrote to, with split "seen" and another seed than that of the shipped scenes.
    """
    classes = STUFF + SEEN_THINGS  # the indices are those of CLASSES, whose last are the things that are held out
    return DatasetSpec(TRAINING_NAME, root / _IMAGES / "seen_*", classes, root / _LABELS / "seen_*")


def write_scenes(
    root: Path, counts: Mapping[str, int], *, size: int = SHIPPED_SIZE, seed: int = 0, workers: int = 1
) -> None:
    """Draw scenes 0 to count-1 of some splits into a folder, and describe it; scenes that are there already stay.

    Args:
        root: made where it is missing.
        counts: split -> number of scenes.
        size: side of the images in pixels.
        seed: of the series.
        workers: processes that draw.
    Raises:
        InputError: a split that there is not, a folder that cannot be written to or holds another series.
    """
    wanted = [(split, index) for split, count in counts.items() for index in range(count)]
    with wrap_os_errors(root):
        for folder in (root / _IMAGES, root / _LABELS):
            folder.mkdir(parents=True, exist_ok=True)
            remove_unfinished(folder)
        is_there = {scene: all(path.is_file() for path in _paths(root, scene)) for scene in wanted}
        for scene in {scene[0]: scene for scene in wanted if is_there[scene]}.values():  # one of each split
            _check_series(root, scene, size, seed)
        _draw_all(root, [scene for scene in wanted if not is_there[scene]], size, seed, workers)
        for name, spec in dataset_specs(root).items():
            if spec.name == NAME or name.removesuffix(".yaml") in counts:
                atomic_write_text(root / name, _description(spec, root))


def write_scene(root: Path, size: int, seed: int, scene: SceneNumber) -> None:
    """Draw one scene and write its label and then its image.

    Args:
        root: folder of the data set.
        size: side of the image in pixels.
        seed: of the series.
        scene: split and index.
    """
    drawn = _draw_scene(scene, size, seed)
    image, label = _paths(root, scene)
    annotation = Image.fromarray(drawn.label)
    annotation.putpalette(palette(len(CLASSES)).tobytes())  # for the eye; the values stay class indices
    atomic_write(label, lambda file: annotation.save(file, "PNG", optimize=True))
    atomic_write(image, lambda file: Image.fromarray(drawn.image).save(file, "WEBP", lossless=True, quality=75))


def _draw_all(root: Path, scenes: list[SceneNumber], size: int, seed: int, workers: int) -> None:
    draw_one = partial(write_scene, root, size, seed)
    for _ in in_parallel(draw_one, scenes, workers, title="Drawing", unit="scene", worth_a_process=1):
        pass


def _draw_scene(scene: SceneNumber, size: int, seed: int) -> Scene:
    split, index = scene
    return draw(scene_layout(index, split, seed), size)


def _check_series(root: Path, scene: SceneNumber, size: int, seed: int) -> None:
    """Refuse to continue a series of another size or seed: draw a scene that is there again, and compare."""
    path = _paths(root, scene)[1]
    expected, found = _draw_scene(scene, size, seed).label, read_label(path)
    if found.shape != expected.shape or np.mean(found != expected) > _SAME:
        raise InputError(
            path,
            "a scene of another size or seed",
            "Choose another folder, or remove this one.",
            allowed=f"scenes of {size} pixels and seed {seed}, or none",
        )


def _paths(root: Path, scene: SceneNumber) -> tuple[Path, Path]:
    """Image and label of one scene."""
    stem = f"{scene[0]}_{scene[1]:03}"
    return root / _IMAGES / f"{stem}.webp", root / _LABELS / f"{stem}.png"


def _description(spec: DatasetSpec, root: Path) -> str:
    """A data set's YAML file, with paths relative to it."""
    assert spec.labels is not None  # scenes are never without
    values = {
        "name": spec.name,
        "images": spec.images.relative_to(root).as_posix(),
        "labels": spec.labels.relative_to(root).as_posix(),
        "classes": list(spec.classes),
        "groups": {name: list(members) for name, members in spec.groups.items()},
    }
    text = yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=10_000)  # one line per list
    return f"# Written by datasets/prepare_emoji_scenes.py; train_net.py --dataset takes it.\n{text}"
