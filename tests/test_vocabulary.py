from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vocabulary import Vocabulary


def test_class_is_named_after_its_first_synonym() -> None:
    vocabulary = Vocabulary.parse(["sofa;couch", "cat", "tv;television set;monitor"])
    assert vocabulary.classes == ("sofa", "cat", "tv")
    assert vocabulary.words == (("sofa", "couch"), ("cat",), ("tv", "television set", "monitor"))
    assert vocabulary.prompts == ("sofa", "couch", "cat", "tv", "television set", "monitor")
    assert vocabulary.class_index == (0, 0, 1, 2, 2, 2)


def test_background_prompts_are_the_synonyms_of_a_last_class() -> None:
    vocabulary = Vocabulary.parse(["cat", "dog"], background=["sky;cloud", "wall", "sky"])  # a repetition is allowed
    assert vocabulary.classes == ("cat", "dog", "background")
    assert vocabulary.prompts == ("cat", "dog", "sky", "cloud", "wall")
    assert vocabulary.class_index == (0, 1, 2, 2, 2)
    assert Vocabulary.parse(["cat"], background=[]).classes == ("cat",)
    assert Vocabulary.parse(["background", "cat"]).class_index == (0, 1)  # a class of this name, without prompts


@pytest.mark.parametrize(
    ("classes", "prompts"),
    [
        (("cat",), ("cat",)),
        (["  traffic light ", "sofa ; couch\n", "\tdog"], ("traffic light", "sofa", "couch", "dog")),
        (["TV", "tv", "猫"], ("TV", "tv", "猫")),
    ],
)
def test_only_surrounding_white_space_is_removed(classes: list[str], prompts: tuple[str, ...]) -> None:
    assert Vocabulary.parse(classes).prompts == prompts


def test_847_classes() -> None:
    vocabulary = Vocabulary.parse([f"thing {index}" for index in range(847)])
    assert vocabulary.class_index == tuple(range(847))


def test_equal_vocabularies_are_one_dictionary_key_even_after_pickling() -> None:
    vocabulary = Vocabulary.parse(["cat;kitten", "dog"], background=["sky"])
    assert {vocabulary: 1}[Vocabulary.parse(["cat ; kitten", "dog"], ["sky"])] == 1
    assert pickle.loads(pickle.dumps(vocabulary)) == vocabulary


@pytest.mark.parametrize("name", ["", "   ", "a;", ";b", "a;;b", None, 7, True, ["cat"]])
def test_invalid_name_is_rejected(name: object) -> None:
    with pytest.raises(InputError) as caught:
        Vocabulary.parse(["dog", name], where="classes.txt")  # type: ignore[list-item]
    assert caught.value.where == "classes.txt"
    assert repr(name) in caught.value.got
    with pytest.raises(InputError):
        Vocabulary.parse(["dog"], background=["sky", name])  # type: ignore[list-item]


@pytest.mark.parametrize("name", ["1\tcat", "cat\nkitten", "\x1b[31mcat", "cat;\x9bkitten"])
def test_control_characters_are_rejected(name: str) -> None:
    with pytest.raises(InputError, match="control character"):
        Vocabulary.parse(["dog", name])


def test_empty_list_is_rejected() -> None:
    with pytest.raises(InputError, match=r"names\.yaml: no class"):
        Vocabulary.parse([], background=["sky"], where="names.yaml")


def test_string_is_rejected_because_its_letters_would_be_the_classes() -> None:
    with pytest.raises(InputError, match="'cat'"):
        Vocabulary.parse("cat")
    with pytest.raises(InputError, match="'sky'"):
        Vocabulary.parse(["cat"], background="sky")


@pytest.mark.parametrize(
    ("classes", "background", "word"),
    [
        (["cat", "dog", "cat"], [], "cat"),
        (["cat", " cat"], [], "cat"),
        (["sofa;couch", "couch"], [], "couch"),
        (["sofa;sofa"], [], "sofa"),
        (["sky", "cat"], ["wall", "sky"], "sky"),
        (["background", "cat"], ["background"], "background"),
        (["cat", "background"], ["wall"], "background"),  # two classes would be named so
    ],
)
def test_duplicate_names_are_rejected(classes: list[str], background: list[str], word: str) -> None:
    with pytest.raises(InputError, match=rf"'{word}'"):
        Vocabulary.parse(classes, background)


@given(st.lists(st.text("ab;, \u00e9\u2028\0", max_size=6) | st.none() | st.integers(), max_size=5))
def test_any_list_is_parsed_completely_or_rejected(classes: list[object]) -> None:
    words = [word.strip() for name in classes if isinstance(name, str) for word in name.split(";")]
    try:
        vocabulary = Vocabulary.parse(classes)  # type: ignore[arg-type]
    except InputError:
        is_text = all(isinstance(name, str) for name in classes)
        has_control = any("\0" in word for word in words)
        assert not classes or not is_text or not all(words) or len(set(words)) < len(words) or has_control
    else:
        assert len(vocabulary.classes) == len(classes)
        assert list(vocabulary.prompts) == words
        assert len(set(words)) == len(words)
        assert all(words)
