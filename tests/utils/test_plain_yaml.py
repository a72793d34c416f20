"""YAML that could do more than hold data is rejected wherever a user supplies some, and nothing is run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cliptrase_d2.config import load_config
from cliptrase_d2.d2 import get_cfg, merge_config_file, merge_config_options
from cliptrase_d2.data.custom import read_dataset_file
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.plain_yaml import load_plain_yaml

TAGS = [
    "!!python/object/apply:os.system ['touch TARGET']",
    "!!python/object/apply:eval [\"open('TARGET', 'w')\"]",
    "!!python/object/new:pathlib.Path ['TARGET']",
    "!!python/name:os.system",
    "!!python/module:antigravity",
    "!!python/tuple [1, 2]",
    "!own tag",
]
# By the place of the tag: the reader, and the text of each file; the last is read.
PLACES: dict[str, tuple[Callable[[Path], object], dict[str, str]]] = {
    "config": (load_config, {"a.yaml": "SEED: 1\nOUTPUT_DIR: TAG\n"}),
    "base of a base": (
        load_config,
        {"Base.yaml": "OUTPUT_DIR: TAG\n", "middle.yaml": "_BASE_: Base.yaml\n", "a.yaml": "_BASE_: [middle.yaml]\n"},
    ),
    "name of a base": (load_config, {"a.yaml": "_BASE_: TAG\n"}),
    "data set": (read_dataset_file, {"a.yaml": "name: a\nimages: photos\nclasses: [sky, tree]\nlabels: TAG\n"}),
    "class list": (read_dataset_file, {"a.yaml": "name: a\nimages: photos\nclasses:\n- TAG\n"}),
}


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("place", PLACES)
def test_no_file_of_a_user_can_name_an_object(tmp_path: Path, place: str, tag: str) -> None:
    target = tmp_path / "was_run"
    read, files = PLACES[place]
    for name, text in files.items():
        (tmp_path / name).write_text(text.replace("TAG", tag.replace("TARGET", str(target))))
    with pytest.raises(InputError, match=r"yaml: .*line"):
        read(tmp_path / name)
    assert not target.exists()


@pytest.mark.parametrize("key", ["OUTPUT_DIR", "SEED", "DATASETS.TEST"])
def test_an_option_is_not_parsed_as_yaml(tmp_path: Path, key: str) -> None:
    cfg, target = get_cfg(), tmp_path / "was_run"
    value = f"!!python/object/apply:os.mkdir ['{target}']"
    if key == "OUTPUT_DIR":
        merge_config_options(cfg, [key, value])
        assert value == cfg.OUTPUT_DIR  # a folder with a strange name
    else:
        with pytest.raises(InputError, match=key):
            merge_config_options(cfg, [key, value])
    assert not target.exists()


@pytest.mark.parametrize(
    "value", ["(" * 5000, "[" * 5000 + "]" * 5000, "{[1]: 2}", "{{}}", "__import__('os')", "1" * 9000, "\0"]
)
def test_options_that_crash_the_literal_parser_are_rejected(value: str) -> None:
    with pytest.raises(InputError, match="SEED"):
        merge_config_options(get_cfg(), ["SEED", value])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 2020-13-45", "month"),
        ("a: !!bool maybe", "maybe"),
        ("a: !!timestamp soon", ""),
        ("a: !!int x", "x"),
        ("a: " + "9" * 5000, "digits"),
        ("a: " + "9" * 30, "64 bits"),
        ("[" * 3000, "nested"),
        ("a: &a [*a]", "50 levels"),
        ('a: "\\0"', "character"),
        ('a: "\\ud800"', "character"),
        ("{a: 1, b: 2, a: 3}", "the key a twice"),
        ("a: " + "x" * 2**20, "letters"),
    ],
)
def test_invalid_and_excessive_yaml_is_rejected(text: str, problem: str) -> None:
    with pytest.raises(InputError, match=rf"a\.yaml: .*{problem}"):
        load_plain_yaml(text, "a.yaml")


def test_aliases_that_expand_to_billions_of_entries_are_rejected(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    (tmp_path / "set.yaml").write_text("\n".join([*lines, "name: *a9"]))
    with pytest.raises(InputError, match="1,000,000"):
        read_dataset_file(tmp_path / "set.yaml")


def test_bases_that_double_at_every_level_are_rejected(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"{number}.yaml").write_text(f"_BASE_: [{number + 1}.yaml, {number + 1}.yaml]\n")
    (tmp_path / "40.yaml").write_text("SEED: 1\n")
    with pytest.raises(InputError, match=r"0\.yaml: .*100.*_BASE_"):
        merge_config_file(get_cfg(), tmp_path / "0.yaml")


def test_a_mapping_can_override_merged_keys() -> None:
    assert load_plain_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}", "a.yaml")["b"] == {"x": 1, "y": 3}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False) | st.text("ab:#-é ☃"),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=4),
        max_leaves=12,
    )
)
def test_plain_values_survive_a_round_trip(value: object) -> None:
    assert load_plain_yaml(yaml.safe_dump(value), "a.yaml") == value


@given(st.text(st.sampled_from("ab:,[]{}&*!<|>-?#%@'\"\n 0.~\t\\"), max_size=60))
def test_any_text_is_a_plain_value_or_an_input_error(text: str) -> None:
    with suppress(InputError):
        value = load_plain_yaml(text, "a.yaml")
        assert isinstance(value, str | int | float | bool | list | dict | set | type(None))
