"""The scenes in datasets/emoji_scenes are complete, and those that this program draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cliptrase_d2.data.custom import read_dataset_file
from cliptrase_d2.data.emoji_scenes.files import GROUPS, SHIPPED, SHIPPED_SIZE, dataset_specs
from cliptrase_d2.data.emoji_scenes.names import CLASSES
from cliptrase_d2.data.emoji_scenes.scene import GLYPH_SHEET, draw
from cliptrase_d2.data.emoji_scenes.splits import scene_layout
from cliptrase_d2.data.images import read_image, read_label
from cliptrase_d2.data.register import load_records

FOLDER = Path(__file__).resolve().parents[3] / "datasets" / "emoji_scenes"


def test_data_set_files_describe_the_folder() -> None:
    for file, spec in dataset_specs(FOLDER).items():
        assert read_dataset_file(FOLDER / file) == spec


def test_every_split_has_its_scenes() -> None:
    for split, count in SHIPPED.items():
        records = load_records(dataset_specs(FOLDER)[f"{split}.yaml"])
        assert [Path(record["file_name"]).stem for record in records] == [f"{split}_{n:03}" for n in range(count)]
    assert len(load_records(dataset_specs(FOLDER)["dataset.yaml"])) == 96


def test_every_class_occurs() -> None:
    labels = [read_label(path) for path in sorted((FOLDER / "annotations").iterdir())]
    assert {label.shape for label in labels} == {(SHIPPED_SIZE, SHIPPED_SIZE)}
    assert np.unique(labels).tolist() == list(range(len(CLASSES)))


def test_held_out_things_occur_only_where_they_are_asked_for() -> None:
    for path in (FOLDER / "annotations").iterdir():
        shown = {CLASSES[index] for index in np.unique(read_label(path))} & set(GROUPS["held_out_things"])
        assert bool(shown) == path.name.startswith("held_out")


@pytest.mark.parametrize(("split", "index"), [("seen", 0), ("seen", 47), ("unseen_combination", 11), ("held_out", 5)])
def test_scenes_are_drawn_the_same_again(split: str, index: int) -> None:
    scene = draw(scene_layout(index, split), SHIPPED_SIZE)
    image = read_image(FOLDER / "images" / f"{split}_{index:03}.webp")
    label = read_label(FOLDER / "annotations" / f"{split}_{index:03}.png")
    # Equal with the OpenCV they were drawn with, 5.0; 4.12 rounds the edges of things apart, 12 pixels of 10,000.
    assert np.mean(label != scene.label) < 0.003
    assert np.abs(image.astype(int) - scene.image).mean() < 1.5


def test_licence_is_that_of_the_glyphs() -> None:
    start = "-" * 59 + "\nSIL OPEN FONT LICENSE Version 1.1"
    ours, glyphs = (
        path.read_text(encoding="utf-8").partition(start)
        for path in (FOLDER / "LICENSE.txt", GLYPH_SHEET.with_name("GLYPHS_LICENSE.txt"))
    )
    assert ours[1:] == glyphs[1:]
    assert "Copyright 2022 Google Inc." in ours[0]
    assert ours[2].rstrip().endswith("OTHER DEALINGS IN THE FONT SOFTWARE.")
