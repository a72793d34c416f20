"""Training pairs: windows with their labels, and captions."""

import numpy as np
import pytest

from cliptrase_d2.data.emoji_scenes.names import CLASSES, HELD_OUT, STUFF
from tools.emoji_clip.pairs import cut_window, draw_canvas, make_caption

GRASS, SAND, FOX, BUS = (CLASSES.index(name) for name in ("grass", "sand", "fox", "bus"))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def label(**shares: int) -> np.ndarray:
    """Build a label of 100 pixels with these numbers of pixels."""
    pixels = [index for name, count in shares.items() for index in [CLASSES.index(name.replace("_", " "))] * count]
    assert len(pixels) == 100
    return np.array(pixels, np.uint8).reshape(10, 10)


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        (label(grass=100), "grass"),
        (label(grass=60, sand=40), "grass and sand"),
        (label(grass=30, sand=70), "sand and grass"),
        (label(grass=60, fox=40), "fox on grass"),
        (label(grass=50, fox=20, bus=30), "bus and a fox on grass"),
        (label(brick_wall=40, alarm_clock=30, snow=30), "alarm clock on brick wall and snow"),
        (label(fox=60, bus=40), "fox and a bus"),
        (label(grass=68, fox=26, bus=6), "fox on grass"),  # 6 % is too small
        (label(grass=67, fox=26, bus=7), "fox and a bus on grass"),
        (label(grass=81, fox=19), "grass"),  # more than 80 % are mentioned alone
        (label(fox=81, grass=19), "fox"),
        (label(fox=80, grass=20), "fox on grass"),
    ],
)
def test_long_caption_names_the_visible_classes_by_size(shares: np.ndarray, words: str) -> None:
    assert make_caption(shares, rng(), brief=0, things_first=True) == words


@pytest.mark.parametrize(
    ("shares", "things_first", "captions"),
    [
        (label(grass=50, fox=20, bus=30), True, {"fox", "bus"}),
        (label(grass=60, sand=40), True, {"grass", "sand"}),
        (label(grass=50, fox=44, sand=6), False, {"fox", "grass"}),
    ],
)
def test_brief_caption_names_one_class(shares: np.ndarray, things_first: bool, captions: set[str]) -> None:
    assert {make_caption(shares, rng(seed), brief=1, things_first=things_first) for seed in range(20)} == captions


def test_window_and_label_are_cut_at_the_same_place() -> None:
    """The values of the canvas and its label encode the position of each pixel."""
    place = np.arange(20 * 20, dtype=np.uint16).reshape(20, 20)
    canvas = np.stack([place % 256, place // 256, place * 0], axis=-1).astype(np.uint8)
    for seed, side in [(0, 20), *((seed, 8) for seed in range(20))]:  # the full canvas, too
        image, cut = cut_window(canvas, (place % 256).astype(np.uint8), side, rng(seed))
        assert image.shape == (side, side, 3)
        assert np.array_equal(image[..., 0], cut)
        rows = image[..., 0].astype(int) + 256 * image[..., 1].astype(int)
        step = rows[0, 1] - rows[0, 0]
        assert step in (1, -1), "original or mirrored"
        assert (np.diff(rows, axis=1) == step).all()
        assert (np.diff(rows, axis=0) == 20).all(), "not upside down"


def test_windows_are_aimed_at_things() -> None:
    canvas = np.full((40, 40), GRASS, np.uint8)
    canvas[10:30, 10:30] = FOX
    image = np.zeros((40, 40, 3), np.uint8)

    def share(aimed: float) -> float:
        middles = [cut_window(image, canvas, 8, rng(seed), aimed)[1][4, 4] == FOX for seed in range(200)]
        return float(np.mean(middles))

    assert share(1.0) > 0.85, "a few attempts may fail"
    assert 0.2 < share(0.0) < 0.6, "as often as by chance"


def test_held_out_things_are_neither_drawn_nor_named() -> None:
    held_out = {CLASSES.index(name) for name in HELD_OUT}
    for index in range(40):
        scene = draw_canvas(index)
        assert scene.image.shape == (168, 168, 3)
        assert not held_out & set(np.unique(scene.label).tolist())
        words = make_caption(scene.label, rng(index), brief=0, things_first=True)
        assert not [name for name in HELD_OUT if name in words]
        assert [name for name in STUFF if name in words] or words in CLASSES
