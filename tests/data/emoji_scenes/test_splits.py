from __future__ import annotations

import numpy as np
import pytest

from cliptrase_d2.data.emoji_scenes.names import HELD_OUT, SEEN_THINGS, STUFF, THINGS, is_unseen_combination
from cliptrase_d2.data.emoji_scenes.scene import Layout
from cliptrase_d2.data.emoji_scenes.splits import SPLITS, allowed_things, canvas_layout, scene_layout
from cliptrase_d2.utils.errors import InputError

MANY = 400


def unseen_pairs(layout: Layout) -> list[tuple[str, str]]:
    return [(t.name, stuff) for t in layout.things for stuff in layout.stuff if is_unseen_combination(t.name, stuff)]


@pytest.mark.parametrize("split", SPLITS)
def test_layout_is_a_function_of_split_index_and_seed(split: str) -> None:
    layout = scene_layout(7, split, seed=2)
    assert layout == scene_layout(7, split, seed=2)
    others = [scene_layout(8, split, seed=2), scene_layout(7, split, seed=3), canvas_layout(7, seed=2)]
    others += [scene_layout(7, other, seed=2) for other in SPLITS if other != split]
    assert layout not in others


@pytest.mark.parametrize("split", SPLITS)
def test_layouts_are_what_they_promise(split: str) -> None:
    for index in range(MANY):
        layout = scene_layout(index, split)
        assert 1 <= len(layout.stuff) <= 3
        assert len(set(layout.stuff)) == len(layout.stuff)
        assert 1 <= len(layout.things) <= 4
        assert layout.zoom == 1
        for thing in layout.things:
            assert thing.name in THINGS
            assert 0.28 <= thing.size <= 0.6
            assert all(0.12 <= place <= 0.88 for place in thing.centre)
            assert abs(thing.angle) <= 30


def test_seen_scenes_and_canvases_show_nothing_unseen() -> None:
    for index in range(MANY):
        for layout in (scene_layout(index, "seen"), canvas_layout(index)):
            assert not unseen_pairs(layout)
            assert not {thing.name for thing in layout.things} & set(HELD_OUT)


def test_every_thing_of_an_unseen_combination_is_in_an_unseen_pair() -> None:
    for index in range(MANY):
        layout = scene_layout(index, "unseen_combination")
        assert {name for name, _ in unseen_pairs(layout)} == {thing.name for thing in layout.things}
        assert {thing.name for thing in layout.things} <= set(SEEN_THINGS)


def test_held_out_scenes_show_something_held_out_on_top() -> None:
    shown = [scene_layout(index, "held_out").things[-1].name for index in range(MANY)]
    assert set(shown) == set(HELD_OUT)


def test_training_sees_every_pair_that_it_may() -> None:
    allowed = sum(not is_unseen_combination(thing, stuff) for thing in SEEN_THINGS for stuff in STUFF)
    layouts = [canvas_layout(index) for index in range(1500)]
    seen = {(thing.name, stuff) for layout in layouts for thing in layout.things for stuff in layout.stuff}
    assert len(seen) == allowed


def test_allowed_things_of_a_scene_with_three_regions() -> None:
    stuff = STUFF[:3]
    seen, unseen = allowed_things(stuff, "seen"), allowed_things(stuff, "unseen_combination")
    assert sorted(seen + unseen) == sorted(SEEN_THINGS)
    assert unseen == tuple(n for n in SEEN_THINGS if any(is_unseen_combination(n, ground) for ground in stuff))
    assert allowed_things(stuff, "held_out") == THINGS


@pytest.mark.parametrize("split", SPLITS)
def test_every_seen_thing_and_stuff_occurs_in_every_split(split: str) -> None:
    layouts = [scene_layout(index, split) for index in range(MANY)]
    assert {name for layout in layouts for name in layout.stuff} == set(STUFF)
    assert {thing.name for layout in layouts for thing in layout.things} >= set(SEEN_THINGS)


def test_things_keep_a_distance_where_there_is_room() -> None:
    close = 0
    for index in range(MANY):
        first, *others = scene_layout(index, "seen").things
        for other in others[:1]:  # two things always find room
            distance = np.hypot(first.centre[0] - other.centre[0], first.centre[1] - other.centre[1])
            close += distance < 0.42 * (first.size + other.size)
    assert close <= 0.02 * MANY


def test_unknown_split() -> None:
    with pytest.raises(InputError, match=r"'train'\. Allowed: seen or unseen_combination or held_out"):
        scene_layout(0, "train")
