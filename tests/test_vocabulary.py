from __future__ import annotations

import pickle
from typing import Any

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


@pytest.mark.parametrize(
    ("classes", "got"),
    [("cat", "'cat'"), ({"cat", "dog"}, "set"), (None, "NoneType"), (3, "int")],
    ids=["letters", "no order", "none", "number"],
)
def test_classes_that_are_not_a_list_are_rejected(classes: Any, got: str) -> None:
    with pytest.raises(InputError, match=got):
        Vocabulary.parse(classes)


def test_dict_has_the_synonyms_of_each_class() -> None:
    classes = {"person": ["man", "woman;lady"], "sky": [], "dog": "puppy", "sofa;couch": ("settee",), "road": None}
    vocabulary = Vocabulary.parse(classes)
    assert vocabulary.classes == ("person", "sky", "dog", "sofa", "road")
    assert vocabulary.words[0] == ("person", "man", "woman", "lady")
    assert vocabulary.words[1:] == (("sky",), ("dog", "puppy"), ("sofa", "couch", "settee"), ("road",))
    assert vocabulary == Vocabulary.parse(["person;man;woman;lady", "sky", "dog;puppy", "sofa;couch;settee", "road"])


def test_name_of_a_class_may_be_repeated_among_its_synonyms_in_a_dict() -> None:
    assert Vocabulary.parse({"person": ["man", "person"]}).words == (("person", "man"),)


@pytest.mark.parametrize(
    ("classes", "got"),
    [
        ({}, "no classes"),
        ({"sky": ""}, "''"),
        ({"": ["sky"]}, "''"),
        ({"sky": ["clouds", ""]}, "''"),
        ({"sky": [3]}, "3"),
        ({False: ["sky"]}, "False"),
        ({"sky": {"clouds": []}}, "'sky' have the type dict"),
        ({"sky": {"clouds"}}, "'sky' have the type set"),
        ({"sky": 3}, "'sky' have the type int"),
        ({"sky": ["tree"], "tree": []}, "'tree' appears twice"),
        ({"sky": ["clouds", "clouds"]}, "'clouds' appears twice"),
        ({"sky": ["clouds, air"]}, "comma"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_faulty_dict_is_rejected(classes: Any, got: str) -> None:
    with pytest.raises(InputError, match=rf"animals\.py.*{got}"):
        Vocabulary.parse(classes, where="animals.py")


@pytest.mark.parametrize("name", ["sky, tree", "sky,", ",sky", "sky;tree,", ",", "building, edifice;house"])
def test_comma_in_a_name_is_rejected(name: str) -> None:
    for classes, background in (([name], ()), (["dog"], [name])):
        with pytest.raises(InputError, match=f"'{name}' contains a comma"):
            Vocabulary.parse(classes, background)


def test_official_class_lists_may_have_commas_but_no_stray_ones() -> None:
    assert Vocabulary.parse(["building, edifice", "sky"], allow_commas=True).classes == ("building, edifice", "sky")
    for name in ("sky,", ",sky", "building,, edifice", "building, ;edifice"):
        with pytest.raises(InputError, match=f"'{name}' contains a comma"):
            Vocabulary.parse([name], allow_commas=True)


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
    names = [name for name in classes if isinstance(name, str)]
    words = [word.strip() for name in names for word in name.split(";")]
    try:
        vocabulary = Vocabulary.parse(classes)  # type: ignore[arg-type]
    except InputError:
        is_text = all(isinstance(name, str) for name in classes)
        has_mark = any(letter in name for letter in ",\0" for name in names)
        assert not classes or not is_text or not all(words) or len(set(words)) < len(words) or has_mark
    else:
        assert len(vocabulary.classes) == len(classes)
        assert list(vocabulary.prompts) == words
        assert len(set(words)) == len(words)
        assert all(words)
