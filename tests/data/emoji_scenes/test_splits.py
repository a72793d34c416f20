import numpy as np
import pytest

from cliptrase_d2.data.emoji_scenes.names import HELD_OUT, SEEN_THINGS, STUFF, THINGS, is_unseen_combination
from cliptrase_d2.data.emoji_scenes.scene import Layout
from cliptrase_d2.data.emoji_scenes.splits import SPLITS, get_allowed_things, sample_canvas_layout, sample_layout
from cliptrase_d2.utils.errors import InputError

COUNT = 400


@pytest.fixture(scope="module")
def layouts() -> dict[str, list[Layout]]:
    """Return the first layouts of each split, and of training."""
    splits = {split: [sample_layout(index, split) for index in range(COUNT)] for split in SPLITS}
    return {**splits, "training": [sample_canvas_layout(index) for index in range(1500)]}


def list_names(layout: Layout) -> set[str]:
    return {thing.name for thing in layout.things}


def list_pairs(layout: Layout) -> set[tuple[str, str]]:
    return {(thing, stuff) for thing in list_names(layout) for stuff in layout.stuff}


@pytest.mark.parametrize("split", SPLITS)
def test_layout_depends_on_split_index_and_seed_only(split: str) -> None:
    layout = sample_layout(7, split, seed=2)
    assert layout == sample_layout(7, split, seed=2)
    others = [sample_layout(8, split, seed=2), sample_layout(7, split, seed=3), sample_canvas_layout(7, seed=2)]
    others += [sample_layout(7, other, seed=2) for other in SPLITS if other != split]
    assert layout not in others


@pytest.mark.parametrize("split", SPLITS)
def test_layouts_are_within_their_limits(layouts: dict[str, list[Layout]], split: str) -> None:
    for layout in layouts[split]:
        assert 1 <= len(layout.stuff) <= 3
        assert len(set(layout.stuff)) == len(layout.stuff)
        assert 1 <= len(layout.things) <= 4
        assert layout.zoom == 1
        for thing in layout.things:
            assert thing.name in THINGS
            assert 0.28 <= thing.size <= 0.6
            assert all(0.12 <= place <= 0.88 for place in thing.centre)
            assert abs(thing.angle) <= 30
    assert {name for layout in layouts[split] for name in layout.stuff} == set(STUFF)
    assert {name for layout in layouts[split] for name in list_names(layout)} >= set(SEEN_THINGS)


def test_training_shows_every_allowed_pair_and_seen_scenes_no_other(layouts: dict[str, list[Layout]]) -> None:
    allowed = {(t, stuff) for t in SEEN_THINGS for stuff in STUFF if not is_unseen_combination(t, stuff)}
    assert {pair for layout in layouts["training"] for pair in list_pairs(layout)} == allowed
    assert {pair for layout in layouts["seen"] for pair in list_pairs(layout)} <= allowed


def test_every_thing_of_an_unseen_combination_is_in_an_unseen_pair(layouts: dict[str, list[Layout]]) -> None:
    for layout in layouts["unseen_combination"]:
        unseen = {thing for thing, stuff in list_pairs(layout) if is_unseen_combination(thing, stuff)}
        assert unseen == list_names(layout) <= set(SEEN_THINGS)


def test_top_thing_of_a_held_out_scene_is_held_out(layouts: dict[str, list[Layout]]) -> None:
    assert {layout.things[-1].name for layout in layouts["held_out"]} == set(HELD_OUT)


def test_allowed_things_on_three_regions() -> None:
    stuff = STUFF[:3]
    seen, unseen = get_allowed_things(stuff, "seen"), get_allowed_things(stuff, "unseen_combination")
    assert sorted(seen + unseen) == sorted(SEEN_THINGS)
    assert unseen == tuple(n for n in SEEN_THINGS if any(is_unseen_combination(n, ground) for ground in stuff))
    assert get_allowed_things(stuff, "held_out") == THINGS


def test_things_are_apart_if_there_is_room(layouts: dict[str, list[Layout]]) -> None:
    close = 0
    for first, second in (layout.things[:2] for layout in layouts["seen"] if len(layout.things) > 1):
        distance = np.hypot(first.centre[0] - second.centre[0], first.centre[1] - second.centre[1])
        close += distance < 0.42 * (first.size + second.size)  # two things nearly always have room
    assert close <= 0.02 * COUNT


def test_unknown_split_is_rejected() -> None:
    with pytest.raises(InputError, match=r"split: 'train'.*'seen' or 'unseen_combination' or 'held_out'"):
        sample_layout(0, "train")
