from __future__ import annotations

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
    assert Vocabulary.parse(CLASSES).classes == CLASSES  # no name twice, none empty


def test_every_thing_is_one_character_of_its_own() -> None:
    assert len(set(GLYPHS.values())) == len(GLYPHS)
    assert all(len(character) == 1 for character in GLYPHS.values())


def test_names_are_those_of_the_characters() -> None:
    # The odd ones: Unicode calls a ❤ a heavy black heart, and 🐷 and others faces.
    for name in ("elephant", "penguin", "alarm clock", "christmas tree", "blue heart", "green book", "blue circle"):
        unicode_name = unicodedata.name(GLYPHS[name])
        assert unicode_name.removeprefix("LARGE ") == name.upper()


def test_what_is_held_out_is_made_of_what_is_seen() -> None:
    assert set(SEEN_THINGS) == set(THINGS) - set(HELD_OUT)
    for name in HELD_OUT:
        colour, shape = name.split()
        assert any(seen.startswith(f"{colour} ") for seen in SEEN_THINGS), colour
        assert any(seen.endswith(f" {shape}") for seen in SEEN_THINGS), shape


def test_every_fifth_pair_is_unseen_and_no_name_is_without_seen_ones() -> None:
    unseen = {(thing, stuff) for thing in THINGS for stuff in STUFF if is_unseen_combination(thing, stuff)}
    assert len(unseen) == len(THINGS) * len(STUFF) / 5
    # 3 and 5 have no common divisor, so every fifth stuff is unseen with a thing, and every fifth thing on a stuff.
    assert {sum((thing, stuff) in unseen for stuff in STUFF) for thing in THINGS} == {len(STUFF) // 5}
    assert {sum((thing, stuff) in unseen for thing in THINGS) for stuff in STUFF} <= {11, 12}
