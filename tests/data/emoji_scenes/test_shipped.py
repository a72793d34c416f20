"""The scenes in datasets/emoji_scenes."""

from pathlib import Path

import numpy as np
import pytest

from cliptrase_d2.data.custom import read_dataset_file
from cliptrase_d2.data.emoji_scenes.files import GROUPS, SHIPPED, SHIPPED_SIZE, build_specs
from cliptrase_d2.data.emoji_scenes.names import CLASSES
from cliptrase_d2.data.emoji_scenes.scene import GLYPH_SHEET, draw
from cliptrase_d2.data.emoji_scenes.splits import sample_layout
from cliptrase_d2.data.images import read_image
from cliptrase_d2.data.label_files import read_label
from cliptrase_d2.data.register import load_records

FOLDER = Path(__file__).resolve().parents[3] / "datasets" / "emoji_scenes"


def test_dataset_files_describe_the_folder() -> None:
    for file, spec in build_specs(FOLDER).items():
        assert read_dataset_file(FOLDER / file) == spec


def test_every_split_has_its_scenes() -> None:
    specs = build_specs(FOLDER)
    for split, count in SHIPPED.items():
        records = load_records(specs[f"{split}.yaml"])
        assert [Path(record["file_name"]).stem for record in records] == [f"{split}_{n:03}" for n in range(count)]
    assert len(load_records(specs["dataset.yaml"])) == 96


def test_every_class_occurs_and_held_out_things_only_in_their_split() -> None:
    labels = {path.name: read_label(path) for path in (FOLDER / "annotations").iterdir()}
    assert {label.shape for label in labels.values()} == {(SHIPPED_SIZE, SHIPPED_SIZE)}
    assert np.unique(list(labels.values())).tolist() == list(range(len(CLASSES)))
    for name, label in labels.items():
        things = {CLASSES[index] for index in np.unique(label)} & set(GROUPS["held_out_things"])
        assert bool(things) == name.startswith("held_out")


@pytest.mark.parametrize(("split", "index"), [("seen", 0), ("seen", 47), ("unseen_combination", 11), ("held_out", 5)])
def test_scenes_can_be_drawn_again(split: str, index: int) -> None:
    scene = draw(sample_layout(index, split), SHIPPED_SIZE)
    image = read_image(FOLDER / "images" / f"{split}_{index:03}.webp")
    label = read_label(FOLDER / "annotations" / f"{split}_{index:03}.png")
    # Equal with OpenCV 5.0, which drew them. OpenCV 4.12 rounds edges differently, in 12 pixels of 10,000.
    assert np.mean(label != scene.label) < 0.003
    assert np.abs(image.astype(int) - scene.image).mean() < 1.5


def test_licence_is_that_of_the_glyphs() -> None:
    start = "-" * 59 + "\nSIL OPEN FONT LICENSE Version 1.1"
    scenes, glyphs = (
        path.read_text(encoding="utf-8").partition(start)
        for path in (FOLDER / "LICENSE.txt", GLYPH_SHEET.with_name("GLYPHS_LICENSE.txt"))
    )
    assert scenes[1:] == glyphs[1:]
    assert "Copyright 2022 Google Inc." in scenes[0]
    assert scenes[2].rstrip().endswith("OTHER DEALINGS IN THE FONT SOFTWARE.")
