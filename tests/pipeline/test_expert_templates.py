"""Files of templates for each class."""

from __future__ import annotations

from pathlib import Path

import pytest

from cliptrase_d2.pipeline.expert_templates import format_expert_templates, read_expert_templates
from cliptrase_d2.utils.errors import InputError


def test_a_written_file_is_read_again(tmp_path: Path) -> None:
    names = ("yes", "1", "a: b", "Straße", "# x", "building, edifice", "~", "2001-01-01")
    templates = dict.fromkeys(names, ("a {}", "the '{}': # \"x\"")) | {"none": ()}
    path = tmp_path / "templates.yaml"
    path.write_text(format_expert_templates(templates, {"data set": "a\nb", "options": {"deviation": 3}}), "utf-8")
    assert read_expert_templates(path) == templates
    assert list(read_expert_templates(path)) == list(templates)
    assert path.read_text("utf-8").startswith("# data set:")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "'None', which is no mapping"),
        ("[a, b]", "which is no mapping"),
        ("{}", "which is no mapping"),
        ("sky: [", "invalid YAML"),
        ("1: ['a {}']", "the class 1, which is no text"),
        ("yes: ['a {}']", "the class True, which is no text"),
        ("sky: 'a {}'", "'sky' with 'a {}', which is no list"),
        ("sky:", "'sky' with None, which is no list"),
        ("sky: ['a {}']\nsky: ['the {}']", "the key sky twice"),
        ("sky: ['a {}', 'a photo']", "class 'sky', template 2, 'a photo', is not a template"),
        ("sky: ['{} and {}']", "template 1, '{} and {}'"),
        ("sky: [3]", "template 1, '3'"),
        ("sky: [[a]]", "template 1"),
        ('sky: ["a\\n{}"]', "template 1"),
        ("sky: ['a {}', 'a {}']", "'sky' with a template that is listed twice"),
        ("sky: []\ntree: []", "no templates of any class"),
    ],
)
def test_faulty_file_is_an_error_of_one_line(tmp_path: Path, text: str, match: str) -> None:
    path = tmp_path / "templates.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"templates\.yaml: ") as caught:
        read_expert_templates(path)
    assert match in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing\.yaml: no such file"):
        read_expert_templates(tmp_path / "missing.yaml")
