from __future__ import annotations

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
from cliptrase_d2.data.emoji_scenes.splits import scene_layout


def one_thing(name: str, *, centre: tuple[float, float] = (0.5, 0.5), size: float = 0.8, **changes: float) -> Layout:
    """A thing on grass; upright, if not asked otherwise."""
    thing = Thing(name, centre, size, changes.get("angle", 0.0), bool(changes.get("mirrored", False)))
    return Layout(("grass",), (thing,), zoom=1.0, seed=3)


def of(name: str) -> int:
    return CLASSES.index(name)


def test_same_layout_gives_the_same_scene() -> None:
    first, second = (draw(scene_layout(5, "seen"), 64) for _ in range(2))
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.label, second.label)


def test_shapes_and_types() -> None:
    scene = draw(scene_layout(0, "seen"), 50)
    assert (scene.image.shape, scene.image.dtype) == ((50, 50, 3), np.uint8)
    assert (scene.label.shape, scene.label.dtype) == ((50, 50), np.uint8)
    assert scene.layout == scene_layout(0, "seen")


@pytest.mark.parametrize("split", ["seen", "held_out"])
def test_one_layout_looks_the_same_at_two_sizes(split: str) -> None:
    for index in range(4):
        small, large = (draw(scene_layout(index, split), size) for size in (112, 224))
        # A pixel of the small picture is four of the large one; only pixels on a border may differ.
        label = large.label[::2, ::2]
        assert np.mean(label != small.label) < 0.06
        shrunk = cv2.resize(large.image, (112, 112), interpolation=cv2.INTER_AREA).astype(float)
        same = label == small.label
        assert np.abs(shrunk - small.image)[same].mean() < 12


def test_label_says_what_is_drawn() -> None:
    scene = draw(one_thing("red circle"), 112)
    assert scene.label[56, 56] == of("red circle")
    assert scene.label[2, 2] == of("grass")
    red, green, blue = scene.image[50:62, 50:62].mean((0, 1))
    assert red > 180 > 120 > max(green, blue)
    red, green, blue = scene.image[:10, :10].mean((0, 1))
    assert green > max(red, blue)


def test_label_covers_the_area_of_the_thing() -> None:
    # The disc is 120 of its 128 pixels wide, so at 0.8 of a side of 200 its radius is 75 pixels.
    scene = draw(one_thing("red circle"), 200)
    assert np.sum(scene.label == of("red circle")) == pytest.approx(np.pi * 75**2, rel=0.03)


@pytest.mark.parametrize("name", THINGS)
def test_every_thing_shows_where_it_stands(name: str) -> None:
    scene = draw(one_thing(name, centre=(0.3, 0.6), size=0.5), 96)
    y, x = np.nonzero(scene.label == of(name))
    assert len(x) > 200
    assert np.hypot(x.mean() / 96 - 0.3, y.mean() / 96 - 0.6) < 0.1
    assert set(np.unique(scene.label)) == {of(name), of("grass")}


@pytest.mark.parametrize("name", STUFF)
def test_stuff_alone(name: str) -> None:
    scene = draw(Layout((name,), (), zoom=1.0, seed=1), 32)
    assert (scene.label == of(name)).all()


def test_nearest_thing_is_on_top() -> None:
    far, near = (one_thing(name).things[0] for name in ("red circle", "blue circle"))
    scene = draw(Layout(("snow",), (far, near), zoom=1.0, seed=3), 64)
    assert of("red circle") not in scene.label
    assert scene.label[32, 32] == of("blue circle")


def test_mirrored_thing_is_the_thing_mirrored() -> None:
    plain, mirrored = (draw(one_thing("dolphin", mirrored=value), 96).label for value in (False, True))
    assert np.mean(plain != mirrored) > 0.02
    assert np.mean(plain[:, ::-1] != mirrored) < 0.005


def test_angle_is_counter_clockwise() -> None:
    # A quarter turn brings the right side to the top; numpy's rot90 is counter-clockwise too.
    plain, turned = (draw(one_thing("dolphin", angle=angle), 96).label for angle in (0, 90))
    assert np.mean(np.rot90(plain) != turned) < 0.005


def test_thing_partly_outside() -> None:
    scene = draw(one_thing("red circle", centre=(0.0, 0.0)), 100)
    assert scene.label[0, 0] == of("red circle")
    assert scene.label[60, 60] == of("grass")


def test_thing_wholly_outside_is_not_seen_and_changes_nothing_else() -> None:
    gone = one_thing("red circle", centre=(3.0, 3.0))
    scene = draw(gone, 64)
    assert (scene.label == of("grass")).all()
    # It takes its random numbers all the same: what comes after it stays as it is.
    hidden = draw(one_thing("red circle", size=1e-3), 64)
    differing = np.any(scene.image != hidden.image, axis=-1)
    assert differing.sum() <= 4


def test_regions_of_all_three_counts() -> None:
    for count in (1, 2, 3):
        stuff = STUFF[:count]
        shares = [np.bincount(draw(Layout(stuff, (), 1.0, seed), 48).label.ravel(), minlength=3) for seed in range(6)]
        assert (np.array(shares)[:, :count].sum(1) == 48 * 48).all()
        assert (np.sum(shares, axis=0)[:count] > 0.1 * 6 * 48 * 48).all()


def test_sheet_holds_one_glyph_per_thing() -> None:
    sheet = read_glyph_sheet()
    rows = -(-len(THINGS) // SHEET_COLUMNS)
    assert sheet.shape == (rows * GLYPH_SIDE, SHEET_COLUMNS * GLYPH_SIDE, 4)
    cells = sheet.reshape(rows, GLYPH_SIDE, SHEET_COLUMNS, GLYPH_SIDE, 4).swapaxes(1, 2).reshape(-1, GLYPH_SIDE**2, 4)
    covered = (cells[..., 3] > 127).mean(1)
    assert (covered[: len(THINGS)] > 0.1).all()
    assert not covered[len(THINGS) :].any()
