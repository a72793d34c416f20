"""Class names in files as other tools write them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cliptrase_d2.class_files import read_class_file, split_class_text
from cliptrase_d2.utils.errors import InputError

NAMES = ("soccer ball", "red book", "water")


@pytest.mark.parametrize(
    "text",
    [
        "soccer ball\nred book\nwater\n\n",
        "0: soccer ball\n1: red book\n2: water",
        "2\twater\n0\tsoccer ball\n1\tred book",
        "0,soccer ball\n1,red book\n2,water\n",
        "id,name\n0,soccer ball\n1,red book\n2,water\n",
        "Pixel Value, Class\n1, red book\n0, soccer ball\n2, water\n",
        "name,r,g,b\nsoccer ball,64,128,64\nred book,192,0,128\nwater,0,128,192\n",
        'id;name\n0;"soccer ball"\n1;red book\n2;water\n',
        "label\tcolor\nsoccer ball\tred\nred book\tblue\nwater\tgrey\n",
        json.dumps(NAMES),
        json.dumps({"0": "soccer ball", "1": "red book", "2": "water"}),
        json.dumps({"water": 2, "soccer ball": 0, "red book": 1}),
    ],
    ids=[
        *("lines", "numbered", "numbered and sorted", "numbered with commas", "table", "Roboflow", "CamVid"),
        *("semicolons", "tabs", "JSON list", "id2label", "label2id"),
    ],
)
def test_known_forms(tmp_path: Path, text: str) -> None:
    (tmp_path / "classes.txt").write_text(text)
    assert read_class_file(tmp_path / "classes.txt") == NAMES
    (tmp_path / "classes.txt").write_text(text, encoding="utf-8-sig")
    assert read_class_file(tmp_path / "classes.txt") == NAMES


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("sky\n\ntree", "line 2 is empty"),
        ("\nsky", "line 1 is empty"),
        ("0: sky\ntree", "not 'tree'"),
        ("1: sky\n2: tree", "from 1 to 2, not 0 to 1"),
        ("id,name\n0,sky\n255,tree", "from 0 to 255"),
        ("id,name\n0,sky\n0,tree", "not 0 to 1"),
        ("id,name\nx,sky", "'x'"),
        ("id,name\n0,building, edifice", "line 2 has 3 columns"),
        ('["sky", 3]', "neither a list"),
        ('{"sky": [1]}', "neither a list"),
        ('{"sky": "tree"}', "'sky'"),
        ("[sky]", "cannot be read"),
    ],
)
def test_other_forms_are_rejected(text: str, got: str) -> None:
    with pytest.raises(InputError, match=rf"^classes: .*{got}"):
        split_class_text(text, "classes")


@pytest.mark.parametrize(
    "text", ["building, edifice\nname", "person;name\nsky", "747 airplane\nsky", "class\nname", "a: b\nsky"]
)
def test_lists_of_names_are_not_tables(text: str) -> None:
    assert split_class_text(text, "classes") == tuple(text.splitlines())


def test_files_of_other_tools(shared: Path) -> None:
    folder = shared / "data" / "cases" / "class_files"
    for name in ("table.csv", "camvid_class_dict.csv", "list.json"):
        assert read_class_file(folder / name) == NAMES
