from typing import Any

import cv2
import numpy as np
import pytest

from cliptrase_d2.data.emoji_scenes.names import CLASSES, STUFF, THINGS
from cliptrase_d2.data.emoji_scenes.scene import (
    GLYPH_SIDE,
    SHEET_COLUMNS,
    Layout,
    Thing,
    draw,
    read_glyph_sheet,
)
from cliptrase_d2.data.emoji_scenes.splits import sample_layout


def one_thing(name: str, **changes: Any) -> Layout:
    """Return a layout with an upright thing on grass."""
    thing = {"centre": (0.5, 0.5), "size": 0.8, "angle": 0.0, "mirrored": False, **changes}
    return Layout(("grass",), (Thing(name, **thing),), zoom=1.0, seed=3)


def index(name: str) -> int:
    return CLASSES.index(name)


def test_same_layout_gives_the_same_scene() -> None:
    layout = sample_layout(5, "seen")
    first, second = (draw(layout, 50) for _ in range(2))
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.label, second.label)
    assert (first.image.shape, first.image.dtype) == ((50, 50, 3), np.uint8)
    assert (first.label.shape, first.label.dtype) == ((50, 50), np.uint8)
    assert first.layout == layout


@pytest.mark.parametrize("split", ["seen", "held_out"])
def test_layout_looks_the_same_at_two_sizes(split: str) -> None:
    for number in range(4):
        small, large = (draw(sample_layout(number, split), size) for size in (112, 224))
        # A pixel of the small image covers four of the large one; only pixels on a border may differ.
        label = large.label[::2, ::2]
        assert np.mean(label != small.label) < 0.06
        reduced = cv2.resize(large.image, (112, 112), interpolation=cv2.INTER_AREA).astype(float)
        assert np.abs(reduced - small.image)[label == small.label].mean() < 12


def test_label_matches_the_image() -> None:
    scene = draw(one_thing("red circle"), 112)
    assert scene.label[56, 56] == index("red circle")
    assert scene.label[2, 2] == index("grass")
    red, green, blue = scene.image[50:62, 50:62].mean((0, 1))
    assert red > 180 > 120 > max(green, blue)
    red, green, blue = scene.image[:10, :10].mean((0, 1))
    assert green > max(red, blue)


def test_label_covers_the_area_of_the_thing() -> None:
    # The disc is 120 of its 128 pixels wide, so at 0.8 of a side of 200 its radius is 75 pixels.
    scene = draw(one_thing("red circle"), 200)
    assert np.sum(scene.label == index("red circle")) == pytest.approx(np.pi * 75**2, rel=0.03)


@pytest.mark.parametrize("name", THINGS)
def test_every_thing_is_drawn_at_its_centre(name: str) -> None:
    scene = draw(one_thing(name, centre=(0.3, 0.6), size=0.5), 96)
    y, x = np.nonzero(scene.label == index(name))
    assert len(x) > 200
    assert np.hypot(x.mean() / 96 - 0.3, y.mean() / 96 - 0.6) < 0.1
    assert set(np.unique(scene.label)) == {index(name), index("grass")}


@pytest.mark.parametrize("name", STUFF)
def test_stuff_without_things(name: str) -> None:
    assert (draw(Layout((name,), (), zoom=1.0, seed=1), 32).label == index(name)).all()


def test_last_thing_is_on_top() -> None:
    things = tuple(one_thing(name).things[0] for name in ("red circle", "blue circle"))
    scene = draw(Layout(("snow",), things, zoom=1.0, seed=3), 64)
    assert index("red circle") not in scene.label
    assert scene.label[32, 32] == index("blue circle")


def test_mirrored_and_rotated_things() -> None:
    upright, mirrored, rotated = (
        draw(one_thing("dolphin", **changes), 96).label for changes in ({}, {"mirrored": True}, {"angle": 90})
    )
    assert np.mean(upright != mirrored) > 0.02
    assert np.mean(upright[:, ::-1] != mirrored) < 0.005
    assert np.mean(np.rot90(upright) != rotated) < 0.005  # counter-clockwise, as in numpy


def test_things_outside_the_image() -> None:
    partly = draw(one_thing("red circle", centre=(0.0, 0.0)), 100)
    assert partly.label[0, 0] == index("red circle")
    assert partly.label[60, 60] == index("grass")
    outside = draw(one_thing("red circle", centre=(3.0, 3.0)), 64)
    assert (outside.label == index("grass")).all()
    # It uses as many random numbers as a thing that is drawn, so what follows does not change.
    tiny = draw(one_thing("red circle", size=1e-3), 64)
    assert np.any(outside.image != tiny.image, axis=-1).sum() <= 4


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_region_is_drawn(count: int) -> None:
    labels = [draw(Layout(STUFF[:count], (), 1.0, seed), 48).label for seed in range(6)]
    shares = np.bincount(np.ravel(labels), minlength=count) / np.size(labels)
    assert len(shares) == count
    assert (shares > 0.1).all()


def test_sheet_has_one_glyph_per_thing() -> None:
    sheet = read_glyph_sheet()
    rows = -(-len(THINGS) // SHEET_COLUMNS)
    assert sheet.shape == (rows * GLYPH_SIDE, SHEET_COLUMNS * GLYPH_SIDE, 4)
    cells = sheet.reshape(rows, GLYPH_SIDE, SHEET_COLUMNS, GLYPH_SIDE, 4).swapaxes(1, 2).reshape(-1, GLYPH_SIDE**2, 4)
    covered = (cells[..., 3] > 127).mean(1)
    assert (covered[: len(THINGS)] > 0.1).all()
    assert not covered[len(THINGS) :].any()
