import unicodedata

from cliptrase_d2.data.emoji_scenes.names import (
    CLASSES,
    GLYPHS,
    HELD_OUT,
    SEEN_THINGS,
    STUFF,
    THINGS,
    is_unseen_combination,
)
from cliptrase_d2.vocabulary import Vocabulary


def test_classes_are_stuff_then_things() -> None:
    assert (*STUFF, *THINGS) == CLASSES
    assert (len(STUFF), len(THINGS)) == (15, 57)
    assert Vocabulary.parse(CLASSES).classes == CLASSES  # the names are unique


def test_every_thing_has_a_character_of_that_name() -> None:
    assert len(set(GLYPHS.values())) == len(GLYPHS)
    assert all(len(character) == 1 for character in GLYPHS.values())
    # Some differ: in Unicode, ❤ is a heavy black heart, and 🐷 is a pig face.
    for name in ("elephant", "penguin", "alarm clock", "christmas tree", "blue heart", "green book", "blue circle"):
        assert unicodedata.name(GLYPHS[name]).removeprefix("LARGE ") == name.upper()


def test_colours_and_shapes_of_held_out_things_are_seen() -> None:
    assert set(SEEN_THINGS) == set(THINGS) - set(HELD_OUT)
    for name in HELD_OUT:
        colour, shape = name.split()
        assert any(thing.startswith(f"{colour} ") for thing in SEEN_THINGS), colour
        assert any(thing.endswith(f" {shape}") for thing in SEEN_THINGS), shape


def test_every_fifth_pair_is_unseen() -> None:
    unseen = {(thing, stuff) for thing in THINGS for stuff in STUFF if is_unseen_combination(thing, stuff)}
    assert len(unseen) == len(THINGS) * len(STUFF) / 5
    # 3 and 5 are coprime, so every fifth stuff is unseen with a thing, and every fifth thing with a stuff.
    assert {sum((thing, stuff) in unseen for stuff in STUFF) for thing in THINGS} == {len(STUFF) // 5}
    assert {sum((thing, stuff) in unseen for thing in THINGS) for stuff in STUFF} <= {11, 12}
