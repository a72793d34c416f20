"""What training sees and reads: windows that agree with their labels, captions that agree with both."""

from __future__ import annotations

import numpy as np
import pytest

from cliptrase_d2.data.emoji_scenes.names import CLASSES, HELD_OUT, STUFF
from tools.emoji_clip.pairs import caption, cut_window, draw_canvas

GRASS, SAND, FOX, BUS = (CLASSES.index(name) for name in ("grass", "sand", "fox", "bus"))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def label(**shares: int) -> np.ndarray:
    """A label of 100 pixels with so many of each class."""
    pixels = [index for name, count in shares.items() for index in [CLASSES.index(name.replace("_", " "))] * count]
    assert len(pixels) == 100
    return np.array(pixels, np.uint8).reshape(10, 10)


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        (label(grass=100), "grass"),
        (label(grass=60, sand=40), "grass and sand"),
        (label(grass=30, sand=70), "sand and grass"),
        (label(grass=60, fox=40), "fox on grass"),
        (label(grass=50, fox=20, bus=30), "bus and a fox on grass"),
        (label(brick_wall=40, alarm_clock=30, snow=30), "alarm clock on brick wall and snow"),
        (label(fox=60, bus=40), "fox and a bus"),
    ],
)
def test_a_long_caption_names_all_that_is_seen_the_larger_first(shown: np.ndarray, words: str) -> None:
    assert caption(shown, rng(), brief=0, things_first=True) == words


def test_what_is_hardly_seen_is_not_named() -> None:
    assert caption(label(grass=68, fox=26, bus=6), rng(), brief=0, things_first=True) == "fox on grass"
    assert caption(label(grass=67, fox=26, bus=7), rng(), brief=0, things_first=True) == "fox and a bus on grass"


def test_beside_what_fills_the_picture_nothing_is_named() -> None:
    assert caption(label(grass=81, fox=19), rng(), brief=0, things_first=True) == "grass"
    assert caption(label(fox=81, grass=19), rng(), brief=0, things_first=True) == "fox"
    assert caption(label(fox=80, grass=20), rng(), brief=0, things_first=True) == "fox on grass"


def test_a_brief_caption_names_one_thing_or_else_one_stuff() -> None:
    shown = label(grass=50, fox=20, bus=30)
    assert {caption(shown, rng(seed), brief=1, things_first=True) for seed in range(20)} == {"fox", "bus"}
    assert {caption(label(grass=60, sand=40), rng(seed), brief=1, things_first=True) for seed in range(20)} == {
        "grass",
        "sand",
    }


def test_a_balanced_brief_caption_names_anything_that_is_seen() -> None:
    shown = label(grass=50, fox=44, sand=6)
    assert {caption(shown, rng(seed), brief=1, things_first=False) for seed in range(20)} == {"fox", "grass"}


def test_a_window_and_its_label_are_cut_alike() -> None:
    """Every pixel of this canvas says where it is, and its label the same."""
    place = np.arange(20 * 20, dtype=np.uint16).reshape(20, 20)
    canvas = np.stack([place % 256, place // 256, place * 0], axis=-1).astype(np.uint8)
    for seed in range(20):
        image, cut = cut_window(canvas, (place % 256).astype(np.uint8), 8, rng(seed))
        assert image.shape == (8, 8, 3)
        assert np.array_equal(image[..., 0], cut)
        rows = image[..., 0].astype(int) + 256 * image[..., 1].astype(int)
        step = rows[0, 1] - rows[0, 0]
        assert step in (1, -1), "as it is, or mirrored"
        assert (np.diff(rows, axis=1) == step).all()
        assert (np.diff(rows, axis=0) == 20).all(), "never upside down"


def test_windows_aim_at_things() -> None:
    canvas = np.full((40, 40), GRASS, np.uint8)
    canvas[10:30, 10:30] = FOX
    image = np.zeros((40, 40, 3), np.uint8)

    def share(aimed: float) -> float:
        middles = [cut_window(image, canvas, 8, rng(seed), aimed)[1][4, 4] == FOX for seed in range(200)]
        return float(np.mean(middles))

    assert share(1.0) > 0.85, "a few attempts do not always find it"
    assert 0.2 < share(0.0) < 0.6, "as often as chance has it"


def test_a_whole_canvas_is_a_window() -> None:
    image, cut = cut_window(np.zeros((16, 16, 3), np.uint8), np.full((16, 16), SAND, np.uint8), 16, rng())
    assert image.shape == (16, 16, 3)
    assert (cut == SAND).all()


def test_training_neither_shows_nor_names_what_is_held_out() -> None:
    held_out = {CLASSES.index(name) for name in HELD_OUT}
    for index in range(40):
        scene = draw_canvas(index)
        assert scene.image.shape == (168, 168, 3)
        assert not held_out & set(np.unique(scene.label).tolist())
        words = caption(scene.label, rng(index), brief=0, things_first=True)
        assert not [name for name in HELD_OUT if name in words]
        assert [name for name in STUFF if name in words] or words in CLASSES
