"""YAML that would do more than say something, wherever a user gives some: refused, and nothing of it is run."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cliptrase_d2.config import load_config
from cliptrase_d2.d2 import BACKEND, get_cfg, merge_config_file, merge_config_options
from cliptrase_d2.data.custom import read_dataset_file
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.plain_yaml import PlainYAMLError, load_plain_yaml

DATA_SET = "name: my_set\nimages: photos\nclasses: [sky, tree]\n"
TAGS = [
    "!!python/object/apply:os.system ['touch TARGET']",
    "!!python/object/apply:eval [\"open('TARGET', 'w')\"]",
    "!!python/object/new:pathlib.Path ['TARGET']",
    "!!python/name:os.system",
    "!!python/module:antigravity",
    "!!python/tuple [1, 2]",
    "!own tag",
]


def _config(folder: Path, line: str) -> None:
    (folder / "config.yaml").write_text(f"SEED: 1\nOUTPUT_DIR: {line}\n")
    load_config(folder / "config.yaml")


def _base_of_a_base(folder: Path, line: str) -> None:
    (folder / "Base.yaml").write_text(f"OUTPUT_DIR: {line}\n")
    (folder / "middle.yaml").write_text("_BASE_: Base.yaml\n")
    (folder / "config.yaml").write_text("_BASE_: [middle.yaml]\n")
    load_config(folder / "config.yaml")


def _name_of_a_base(folder: Path, line: str) -> None:
    (folder / "config.yaml").write_text(f"_BASE_: {line}\n")
    load_config(folder / "config.yaml")


def _data_set(folder: Path, line: str) -> None:
    (folder / "set.yaml").write_text(f"{DATA_SET}labels: {line}\n")
    read_dataset_file(folder / "set.yaml")


def _class_list(folder: Path, line: str) -> None:
    (folder / "set.yaml").write_text(f"name: my_set\nimages: photos\nclasses:\n- {line}\n")
    read_dataset_file(folder / "set.yaml")


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("read", [_config, _base_of_a_base, _name_of_a_base, _data_set, _class_list])
def test_no_file_of_a_user_can_name_an_object(tmp_path: Path, read: Callable[[Path, str], None], tag: str) -> None:
    target = tmp_path / "was_here"
    with pytest.raises(InputError, match="could not determine a constructor"):
        read(tmp_path, tag.replace("TARGET", str(target)))
    assert not target.exists()


@pytest.mark.skipif(BACKEND == "detectron2", reason="of Detectron2's own loader nothing is changed, nor is it used")
@pytest.mark.parametrize("tag", TAGS[:5])
def test_the_own_loader_of_a_config_runs_nothing_either(tmp_path: Path, tag: str) -> None:
    target = tmp_path / "was_here"
    (tmp_path / "config.yaml").write_text(f"OUTPUT_DIR: {tag.replace('TARGET', str(target))}\n")
    with pytest.raises(yaml.constructor.ConstructorError):
        get_cfg().merge_from_file(str(tmp_path / "config.yaml"))
    assert not target.exists()


@pytest.mark.parametrize("key", ["OUTPUT_DIR", "SEED", "DATASETS.TEST"])
def test_an_option_is_a_word_and_no_yaml(tmp_path: Path, key: str) -> None:
    cfg, target = get_cfg(), tmp_path / "was_here"
    value = f"!!python/object/apply:os.mkdir ['{target}']"
    if key == "OUTPUT_DIR":
        merge_config_options(cfg, [key, value])
        assert value == cfg.OUTPUT_DIR  # a folder of a strange name
    else:
        with pytest.raises(InputError, match=f"option {key}"):
            merge_config_options(cfg, [key, value])
    assert not target.exists()


@pytest.mark.parametrize(
    "value", ["(" * 5000, "[" * 5000 + "]" * 5000, "{[1]: 2}", "{{}}", "__import__('os')", "1" * 9000, "\0"]
)
def test_an_option_that_python_itself_cannot_read(value: str) -> None:
    with pytest.raises(InputError, match="option SEED"):
        merge_config_options(get_cfg(), ["SEED", value])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 2020-13-45", "not of its kind"),
        ("a: !!bool maybe", "not of its kind"),
        ("a: !!timestamp soon", "not of its kind"),
        ("a: !!int x", "not of its kind"),
        ("a: " + "9" * 5000, "not of its kind"),
        ("a: " + "9" * 30, "more than 64 bits"),
        ("[" * 3000, "nested too deeply"),
        ("a: &a [*a]", "nested in more than 50 levels"),
        ('a: "\\0"', "no text file can hold"),
        ('a: "\\ud800"', "no text file can hold"),
        ("{a: 1, b: 2, a: 3}", "the key a twice"),
        ("a: " + "x" * 2**20, "letters, more than"),
    ],
)
def test_what_is_no_plain_yaml(text: str, problem: str) -> None:
    with pytest.raises(PlainYAMLError, match=problem):
        load_plain_yaml(text)


def test_ten_lines_that_stand_for_ten_thousand_million_entries(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    (tmp_path / "set.yaml").write_text("\n".join([*lines, "name: *a9"]))
    with pytest.raises(InputError, match="more than 1,000,000 entries"):
        read_dataset_file(tmp_path / "set.yaml")


def test_bases_that_double_at_every_step_are_not_all_read(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"{number}.yaml").write_text(f"_BASE_: [{number + 1}.yaml, {number + 1}.yaml]\n")
    (tmp_path / "40.yaml").write_text("SEED: 1\n")
    with pytest.raises(InputError, match="more than 100 files by way of _BASE_"):
        merge_config_file(get_cfg(), tmp_path / "0.yaml")


def test_what_a_merged_mapping_says_may_be_replaced() -> None:
    assert load_plain_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}")["b"] == {"x": 1, "y": 3}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False) | st.text("ab:#-é ☃"),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=4),
        max_leaves=12,
    )
)
def test_plain_values_come_back_as_they_were_written(value: object) -> None:
    assert load_plain_yaml(yaml.safe_dump(value)) == value


@given(st.text(st.sampled_from("ab:,[]{}&*!<|>-?#%@'\"\n 0.~\t\\"), max_size=60))
def test_any_text_is_a_value_or_no_plain_yaml(text: str) -> None:
    with suppress(PlainYAMLError):
        assert isinstance(load_plain_yaml(text), str | int | float | bool | list | dict | set | type(None))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
@pytest.mark.parametrize("read", [load_config, read_dataset_file])
def test_a_pipe_is_not_waited_for(tmp_path: Path, read: Callable[[Path], object]) -> None:
    os.mkfifo(tmp_path / "a.yaml")
    with pytest.raises(InputError, match=r"a.yaml: unreadable .it is a pipe or a device"):
        read(tmp_path / "a.yaml")
