"""Pictures that a visitor can start with: emoji scenes, drawn when the page starts, with the words that fit them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from PIL import Image

from cliptrase_d2.data.emoji_scenes.scene import draw
from cliptrase_d2.data.emoji_scenes.splits import scene_layout

_SIDE = 448  # pixels; a screen shows more than the model sees
_SCENES = (
    ("unseen_combination", 6), ("seen", 10), ("held_out", 19), ("unseen_combination", 9), ("seen", 18), ("seen", 25)
)  # fmt: skip


class Example(NamedTuple):
    """A picture to start with.

    Attributes:
        file: the picture.
        classes: what it shows, with commas between.
        point: (across, down) of something in it, in percent of its sides.
    """

    file: Path
    classes: str
    point: tuple[float, float]


def draw_examples(folder: Path) -> list[Example]:
    """Draw the examples into a folder, the same at every start; no data set needs to be there."""
    examples = []
    for split, index in _SCENES:
        scene = draw(scene_layout(index, split), _SIDE)
        file = folder / f"{split}_{index:03}.png"
        Image.fromarray(scene.image).save(file)
        things = [thing.name for thing in scene.layout.things]
        across, down = scene.layout.things[0].centre
        classes = ", ".join(dict.fromkeys([*things, *scene.layout.stuff]))
        examples.append(Example(file, classes, (round(100 * across), round(100 * down))))
    return examples
