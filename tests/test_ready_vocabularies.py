"""Ready lists of background prompts."""

from __future__ import annotations

from typing import Any

import pytest

from cliptrase_d2.ready_vocabularies import get_ready_words, list_ready_vocabularies
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vocabulary import Vocabulary

COUNTS = {"common": 24, "voc": 33, "pcontext": 59, "coco_stuff": 91, "coco_object": 107, "coco": 171}


def test_lists_have_their_published_lengths_and_are_vocabularies() -> None:
    assert {name: len(get_ready_words(name, (), "test")) for name in list_ready_vocabularies()} == COUNTS
    for name, count in COUNTS.items():
        words = Vocabulary.parse(["zebra crossing"], name).words[1]
        # The paper's list for COCO-Object has 14 words twice or more.
        assert len(words) == len(set(get_ready_words(name, (), "test"))) <= count


def test_stuff_of_coco_starts_after_the_things() -> None:
    words, everything = get_ready_words("coco_stuff", (), "test"), get_ready_words("coco", (), "test")
    assert everything[:80] + words == everything
    assert (everything[79], words[0], words[-1]) == ("toothbrush", "banner", "wood")


@pytest.mark.parametrize("background", ["voc", "@voc", ["@voc"], (" @voc ",), ["sky", "@voc", "wood"]], ids=str)
def test_ready_list_is_named_alone_or_in_a_list(background: Any) -> None:
    words = Vocabulary.parse(["cat"], background).words[1]
    assert set(words) == set(get_ready_words("voc", (), "test"))


def test_no_background_is_an_empty_text_or_list() -> None:
    assert Vocabulary.parse(["cat"], "").classes == Vocabulary.parse(["cat"], []).classes == ("cat",)


def test_words_of_a_class_are_left_out_in_any_case_and_with_what_follows_a_hyphen() -> None:
    words = Vocabulary.parse(["Sky;TREE", "wall"], "coco_stuff").words[2]
    assert set(get_ready_words("coco_stuff", (), "test")) - set(words) == {
        "sky-other", "tree", "wall-brick", "wall-concrete", "wall-other", "wall-panel", "wall-stone", "wall-tile",
        "wall-wood",
    }  # fmt: skip
    assert "skyscraper" in words


def test_own_background_words_are_not_left_out() -> None:
    with pytest.raises(InputError, match="'sky' appears twice"):
        Vocabulary.parse(["sky"], ["@voc", "sky"])
    assert Vocabulary.parse(["cat"], ["lava", "@common"]).words[1][:2] == ("lava", "sky")


@pytest.mark.parametrize(
    ("background", "fix"),
    [
        ("vox", "Did you mean 'voc'"),
        ("@COCO", "'coco'"),
        ("sky", "in a list"),
        (["@"], "in a list"),
        (["@sea"], "list"),
    ],
    ids=str,
)
def test_unknown_list_is_an_error_with_the_near_names(background: Any, fix: str) -> None:
    with pytest.raises(InputError, match=rf"words\.txt.*coco_stuff.*{fix}"):
        Vocabulary.parse(["cat"], background, where="words.txt")


def test_background_of_classes_only_is_an_error() -> None:
    with pytest.raises(InputError, match="@common are classes"):
        Vocabulary.parse(list(get_ready_words("common", (), "test")), "common")


def test_ready_list_is_no_class() -> None:
    with pytest.raises(InputError, match="'@voc'"):
        Vocabulary.parse(["cat", "@voc"])
