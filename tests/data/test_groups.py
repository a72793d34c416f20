from __future__ import annotations

from typing import Any

import pytest

from cliptrase_d2.data.groups import class_groups
from cliptrase_d2.utils.errors import InputError

ENTRIES = ("sky", "person;man", "tree")
NAMES = ("sky", "person", "tree", "background")


def test_names_become_class_indices() -> None:
    groups = class_groups({"things": ["tree", "person"], "stuff": ["sky", "background"]}, ENTRIES, NAMES, "set.yaml")
    assert groups == {"things": (2, 1), "stuff": (0, 3)}


@pytest.mark.parametrize("spelt", ["person", "person;man"])
def test_a_class_with_synonyms_is_spelt_as_in_the_list_or_by_its_name(spelt: str) -> None:
    assert class_groups({"things": [spelt]}, ENTRIES, NAMES, "set.yaml") == {"things": (1,)}


def test_a_class_may_be_in_several_groups_and_in_none() -> None:
    assert class_groups({"a": ["sky"], "b": ["sky", "tree"]}, ENTRIES, NAMES, "") == {"a": (0,), "b": (0, 2)}


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"things": ["car"]}, "the class 'car' in group 'things'. Allowed: .*sky, person, tree, background"),
        ({"things": ["man"]}, "the class 'man'"),  # a synonym alone is no class
        ({"things": [3]}, "the class 3 in"),
        ({"things": [["sky"]]}, "the class \\['sky'\\] in"),
        ({"things": ["person", "person;man"]}, "'person' twice in group 'things'"),
        ({"things": []}, "'things' without a class"),
        ({"": ["sky"]}, "the group name ''"),
        ({True: ["sky"]}, "the group name True"),  # yes, in YAML
    ],
)
def test_what_cannot_be_is_refused(groups: Any, message: str) -> None:
    with pytest.raises(InputError, match=rf"^set\.yaml: .*{message}"):
        class_groups(groups, ENTRIES, NAMES, "set.yaml")
