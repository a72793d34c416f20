"""The YAML of a proposal."""

from __future__ import annotations

from pathlib import Path

import pytest

from cliptrase_d2.data.proposal import Draft, render
from cliptrase_d2.utils.plain_yaml import load_plain_yaml


def build_draft(**keys: object) -> Draft:
    draft = Draft(keys={"name": "my_set"})
    for key, value in keys.items():
        draft.set(key, value, f"reason of {key}")
    return draft


def test_every_key_has_its_reason_above_it(tmp_path: Path) -> None:
    lines = render(build_draft(images="images", classes=["sky"]), tmp_path, tmp_path).splitlines()
    for key in ("images", "classes"):
        index = next(index for index, line in enumerate(lines) if line.startswith(f"{key}:"))
        assert lines[index - 1].endswith(f"reason of {key}")


def test_values_survive(tmp_path: Path) -> None:
    keys = {
        "classes": ["yes", "a: b", "#x", "été", "null", *(f"class number {index}" for index in range(60))],
        "label_map": {0: 255, 7: 0},
        "ignore_label": -1,
        "reduce_zero_label": True,
        "stretch": [0.5, 3000],
    }
    text = render(build_draft(**keys), tmp_path, tmp_path)
    assert load_plain_yaml(text, "text") == {"name": "my_set", **keys}


def test_colours_are_lists(tmp_path: Path) -> None:
    text = render(build_draft(label_colors={(1, 2, 3): "yes"}), tmp_path, tmp_path)
    assert "\n  [1, 2, 3]: 'yes'\n" in text


@pytest.mark.parametrize(
    ("target", "expected"),
    [("", "images"), ("sub", "../images"), ("..", "{name}/images"), (None, "{root}/images")],
)
def test_paths_start_at_the_file(tmp_path: Path, target: str | None, expected: str) -> None:
    draft = build_draft(images="images", label_colors="@voc")
    values = load_plain_yaml(render(draft, tmp_path, None if target is None else tmp_path / target), "text")
    assert values["images"] == expected.format(name=tmp_path.name, root=tmp_path)
    assert values["label_colors"] == "@voc"


def test_whole_folder_is_a_dot(tmp_path: Path) -> None:
    assert load_plain_yaml(render(build_draft(images="."), tmp_path, tmp_path), "text")["images"] == "."


def test_names_cannot_add_keys(tmp_path: Path) -> None:
    draft = build_draft(images="images\nclasses: [evil]")
    draft.notes.append("Other pairs: x\nclasses: [evil]\x85labels: evil\u2028unknown: evil")
    draft.reasons["images"] = "line\r\nclasses: [evil]"
    values = load_plain_yaml(render(draft, tmp_path, tmp_path), "text")
    assert values.keys() == {"name", "images"}


def test_names_that_are_not_utf8_can_be_printed(tmp_path: Path) -> None:
    draft = build_draft(images="images")
    draft.notes.append("Other pairs: \udce9t\udce9")
    assert render(draft, tmp_path, tmp_path).encode()
