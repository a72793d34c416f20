"""Example photos of the page: emoji scenes with their class names."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from PIL import Image

from cliptrase_d2.data.emoji_scenes.scene import draw
from cliptrase_d2.data.emoji_scenes.splits import sample_layout

_SIDE = 448  # pixels; larger than the model's input, for a sharp picture on the page
_SCENES = (
    ("unseen_combination", 6), ("seen", 10), ("held_out", 19), ("unseen_combination", 9), ("seen", 18), ("seen", 25)
)  # fmt: skip


class Example(NamedTuple):
    """An example photo.

    Attributes:
        file: of the photo.
        classes: class names in the photo, separated by commas.
        point: (across, down) of an object, in percent of the width and height.
    """

    file: Path
    classes: str
    point: tuple[float, float]


def draw_examples(folder: Path) -> list[Example]:
    """Draw the examples into a folder. They are the same at every start and need no data set."""
    examples = []
    for split, index in _SCENES:
        scene = draw(sample_layout(index, split), _SIDE)
        file = folder / f"{split}_{index:03}.png"
        Image.fromarray(scene.image).save(file)
        across, down = scene.layout.things[0].centre
        names = dict.fromkeys([*(thing.name for thing in scene.layout.things), *scene.layout.stuff])
        examples.append(Example(file, ", ".join(names), (round(100 * across), round(100 * down))))
    return examples
