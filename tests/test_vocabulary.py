from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vocabulary import Vocabulary


def test_a_plain_list() -> None:
    vocabulary = Vocabulary.parse(["cat", "dog"])
    assert vocabulary.classes == ("cat", "dog")
    assert vocabulary.prompts == ("cat", "dog")
    assert vocabulary.class_index == (0, 1)


def test_synonyms_are_words_of_one_class_named_by_the_first() -> None:
    vocabulary = Vocabulary.parse(["sofa;couch", "cat", "tv;television set;monitor"])
    assert vocabulary.classes == ("sofa", "cat", "tv")
    assert vocabulary.words == (("sofa", "couch"), ("cat",), ("tv", "television set", "monitor"))
    assert vocabulary.prompts == ("sofa", "couch", "cat", "tv", "television set", "monitor")
    assert vocabulary.class_index == (0, 0, 1, 2, 2, 2)


def test_background_prompts_are_the_words_of_a_last_class() -> None:
    vocabulary = Vocabulary.parse(["cat", "dog"], background=["sky;cloud", "wall"])
    assert vocabulary.classes == ("cat", "dog", "background")
    assert vocabulary.prompts == ("cat", "dog", "sky", "cloud", "wall")
    assert vocabulary.class_index == (0, 1, 2, 2, 2)


def test_no_background_prompts_no_background_class() -> None:
    assert Vocabulary.parse(["cat"], background=[]).classes == ("cat",)


def test_a_background_prompt_may_be_said_twice() -> None:
    assert Vocabulary.parse(["cat"], background=["sky", "wall", "sky"]).prompts == ("cat", "sky", "wall")


def test_a_class_may_be_called_background() -> None:
    assert Vocabulary.parse(["background", "cat"]).class_index == (0, 1)


def test_white_space_around_names_is_dropped_and_kept_within() -> None:
    assert Vocabulary.parse(["  traffic light ", "sofa ; couch\n"]).prompts == ("traffic light", "sofa", "couch")


def test_capitals_and_other_scripts_are_kept() -> None:
    assert Vocabulary.parse(["TV", "tv", "猫"]).prompts == ("TV", "tv", "猫")


def test_one_word() -> None:
    assert Vocabulary.parse(("cat",)).class_index == (0,)


def test_847_classes() -> None:
    vocabulary = Vocabulary.parse([f"thing {index}" for index in range(847)])
    assert vocabulary.class_index == tuple(range(847))


def test_equal_vocabularies_are_one_key_even_after_a_worker_process() -> None:
    vocabulary = Vocabulary.parse(["cat;kitten", "dog"], background=["sky"])
    assert {vocabulary: 1}[Vocabulary.parse(["cat ; kitten", "dog"], ["sky"])] == 1
    assert pickle.loads(pickle.dumps(vocabulary)) == vocabulary


@pytest.mark.parametrize("name", ["", "   ", "a;", ";b", "a;;b", None, 7, True, ["cat"]])
def test_a_name_that_is_no_name_is_refused(name: object) -> None:
    with pytest.raises(InputError) as caught:
        Vocabulary.parse(["dog", name], where="classes.txt")  # type: ignore[list-item]
    assert caught.value.where == "classes.txt"
    assert repr(name) in caught.value.got


def test_a_background_prompt_that_is_no_name_is_refused() -> None:
    with pytest.raises(InputError, match="''"):
        Vocabulary.parse(["dog"], background=["sky", ""])


def test_no_class_at_all_is_refused() -> None:
    with pytest.raises(InputError, match=r"names\.yaml: no class"):
        Vocabulary.parse([], background=["sky"], where="names.yaml")


def test_one_string_is_refused_because_its_letters_would_be_the_classes() -> None:
    with pytest.raises(InputError, match="one string, 'cat'"):
        Vocabulary.parse("cat")
    with pytest.raises(InputError, match="one string, 'sky'"):
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
    ],
)
def test_a_word_given_twice_is_refused(classes: list[str], background: list[str], word: str) -> None:
    with pytest.raises(InputError, match=f"the word '{word}' twice"):
        Vocabulary.parse(classes, background)


def test_background_cannot_be_a_class_and_a_list_of_prompts() -> None:
    with pytest.raises(InputError, match="a class named 'background' besides"):
        Vocabulary.parse(["cat", "background"], background=["wall"])


@given(st.lists(st.text("ab;, \u00e9\u2028\0", max_size=6) | st.none() | st.integers(), max_size=5))
def test_any_list_is_a_vocabulary_of_all_its_words_or_is_refused(classes: list[object]) -> None:
    try:
        vocabulary = Vocabulary.parse(classes)  # type: ignore[arg-type]
    except InputError:
        words = [word.strip() for name in classes if isinstance(name, str) for word in name.split(";")]
        is_text = all(isinstance(name, str) for name in classes)
        has_control = any("\0" in word for word in words)
        assert not classes or not is_text or not all(words) or len(set(words)) < len(words) or has_control
        return
    assert len(vocabulary.classes) == len(classes)
    assert ";".join(vocabulary.prompts) == ";".join(w.strip() for name in classes for w in str(name).split(";"))
    assert len(set(vocabulary.prompts)) == len(vocabulary.prompts)
    assert all(vocabulary.prompts)


@pytest.mark.parametrize("name", ["1\tcat", "cat\nkitten", "\x1b[31mcat", "cat;\x9bkitten"])
def test_control_characters_are_no_part_of_a_name(name: str) -> None:
    with pytest.raises(InputError, match="with a control character"):
        Vocabulary.parse(["dog", name])
    assert Vocabulary.parse(["\tdog \n"]).classes == ("dog",)
