import os
from pathlib import Path

import pytest

from cliptrase_d2.clip.prompts import TEMPLATE_SETS, fill, get_templates
from cliptrase_d2.utils.errors import InputError


@pytest.mark.parametrize(("name", "count"), [("imagenet", 80), ("vild", 14), ("simple", 1)])
def test_sets_have_their_published_sizes_and_no_repeats(name: str, count: int) -> None:
    assert len(set(TEMPLATE_SETS[name])) == len(TEMPLATE_SETS[name]) == count
    assert all(template.count("{}") == 1 for template in TEMPLATE_SETS[name])


def test_fill_inserts_the_word_into_every_template() -> None:
    prompts = fill("imagenet", "cat")
    assert (prompts[0], prompts[-1]) == ("a bad photo of a cat.", "a tattoo of the cat.")
    assert fill("simple", "{0} and {}") == ["a photo of a {0} and {}."], "braces in a word stay"


def test_file_has_a_template_per_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "templates.txt").write_text("an aerial photo of {}\n  {}, from above \n\n")
    assert fill("templates.txt", "a {} roof") == ["an aerial photo of a {} roof", "a {} roof, from above"]
    assert get_templates(str(tmp_path / "templates.txt")) == get_templates("templates.txt")


def test_a_tuple_is_a_set() -> None:
    assert get_templates(("a {}", "the {}")) == ("a {}", "the {}")
    assert fill(("a {}", "the {}"), "cat") == ["a cat", "the cat"]


@pytest.mark.parametrize(("templates", "got"), [((), "no templates"), (("a {}", "a"), "template 2, 'a'")], ids=str)
def test_invalid_tuple_is_an_error(templates: tuple[str, ...], got: str) -> None:
    with pytest.raises(InputError, match=f"templates: {got}"):
        get_templates(templates)


def test_changed_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "templates.txt"
    path.write_text("a {}")
    assert get_templates(str(path)) == ("a {}",)
    path.write_text("the {}")
    os.utime(path, ns=(0, 1))
    assert get_templates(str(path)) == ("the {}",)


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("", "no templates"),
        ("a {}\n\nthe {}", "line 2, ''"),
        ("a photo", "line 1, 'a photo'"),
        ("a {}\na {} and a {}", "line 2, 'a {} and a {}'"),
        ("a {}\tb", "line 1"),
    ],
    ids=["empty", "empty line", "no slot", "two slots", "tab"],
)
def test_faulty_file_is_an_error_of_one_line(tmp_path: Path, text: str, got: str) -> None:
    path = tmp_path / "templates.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=r"templates\.txt") as caught:
        get_templates(str(path))
    assert got in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_set_and_missing_file_are_different_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"templates.*'imagnet'.*'imagenet'.*FILE\.txt"):
        get_templates("imagnet")
    with pytest.raises(InputError, match=r"missing\.txt: no such file"):
        get_templates(str(tmp_path / "missing.txt"))
    with pytest.raises(InputError, match="a folder"):
        get_templates(str(tmp_path))
