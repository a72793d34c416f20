"""Colour tables as annotation tools write them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cliptrase_d2.class_files import split_class_text
from cliptrase_d2.color_files import find_color_table, parse_color
from cliptrase_d2.data.label_colors import get_ready_table, map_colors
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vocabulary import Vocabulary

TABLE = [("soccer ball", (1, 2, 3)), ("water", (51, 221, 255))]
FORMS = {
    "CVAT": "# label:color_rgb:parts:actions\nsoccer ball:1,2,3::\nwater:51,221,255::\n",
    "CVAT without a header": "soccer ball:1,2,3::\nwater:51,221,255:part:action\n",
    "class_dict": "name,r,g,b\nsoccer ball,1,2,3\nwater,51,221,255\n",
    "red, green, blue": "id;class;red;green;blue\n0;soccer ball;1;2;3\n1;water;51;221;255\n",
    "CamVid": "1 2 3\tsoccer ball\n51 221 255\t\twater\n",
    "Supervisely": json.dumps({"soccer ball": [1, 2, 3], "water": [51, 221, 255]}),
    "hexadecimal": json.dumps({"soccer ball": "#010203", "water": "#33DDFF"}),
    "meta.json": json.dumps(
        {"classes": [{"title": "soccer ball", "color": "#010203"}, {"title": "water", "color": "#33ddff"}], "tags": []}
    ),
    "Mapillary": json.dumps(
        {"labels": [{"readable": "soccer ball", "color": [1, 2, 3]}, {"readable": "water", "color": [51, 221, 255]}]}
    ),
    "a list": json.dumps([{"name": "soccer ball", "color": [1, 2, 3]}, {"name": "water", "color": [51, 221, 255]}]),
}


@pytest.mark.parametrize("form", FORMS)
def test_known_tables(form: str) -> None:
    assert find_color_table(FORMS[form], "file") == TABLE
    assert split_class_text(FORMS[form], "file") == ("soccer ball", "water")


@pytest.mark.parametrize(
    "text",
    [
        *("", "sky\ntree\n", "0: sky\n1: tree\n", "id,name\n0,sky\n", "sky,1,2,3\n", "{", "[1, 2]", "null", "{}"),
        *('["sky"]', '{"0": "facade"}', '{"sky": [1, 2]}', '{"sky": [1, 2, 300]}', '{"sky": [1, 2, 3], "x": 4}'),
    ],
)
def test_other_texts_are_no_tables(text: str) -> None:
    assert find_color_table(text, "file") is None


@pytest.mark.parametrize(
    "text", ["name,r,g,b\nsky,1,2\n", "name,r,g,b\nsky,1,2,256\n", "# label:color_rgb:parts:actions\nsky\n"]
)
def test_broken_tables_are_rejected(text: str) -> None:
    with pytest.raises(InputError, match=r"^file: "):
        find_color_table(text, "file")


@pytest.mark.parametrize(
    ("value", "color"),
    [
        ((1, 2, 3), (1, 2, 3)),
        ([0, 0, 255], (0, 0, 255)),
        (" 1, 2,3 ", (1, 2, 3)),
        ("#0a0B0c", (10, 11, 12)),
        *(
            (value, None)
            for value in ("0a0b0c", "1,2", "1,2,", "1,2,-3", "1,2,3,4", "1,2,256", (1, 2, True), (1.0, 2, 3))
        ),
        *((value, None) for value in (None, 5, "", {}, "a,b,c", "²,1,1")),
    ],
)
def test_colors(value: object, color: object) -> None:
    assert parse_color(value) == color


def test_ready_tables() -> None:
    voc = dict(get_ready_table("@voc"))
    assert (voc["background"], voc["aeroplane"], voc["tvmonitor"]) == ((0, 0, 0), (128, 0, 0), (0, 64, 128))
    assert len(get_ready_table("@cityscapes")) == 29
    for name in ("@voc", "@cityscapes"):
        colors = [color for _, color in get_ready_table(name)]
        assert len(set(colors)) == len(colors)
    with pytest.raises(InputError, match="@ade"):
        get_ready_table("@ade")


def test_names_of_tables_match_without_case_spaces_and_hyphens(tmp_path: Path) -> None:
    vocabulary = Vocabulary.parse(["TV monitor", "diningtable;dining-table", "plane;aeroplane"], ["wall"])
    mapped = map_colors("@voc", vocabulary, 255, "set.yaml")
    indices = {color: mapped[int(np.dot(color, (65536, 256, 1)))] for _, color in get_ready_table("@voc")}
    assert indices.pop((0, 64, 128)) == 0
    assert indices.pop((192, 128, 0)) == 1
    assert indices.pop((128, 0, 0)) == 2
    assert indices.pop((0, 0, 0)) == 3  # the background class
    assert set(indices.values()) == {255}


@pytest.mark.parametrize(
    "colors",
    [
        {},
        {(1, 2): 0},
        {(1, 2, 3): 2},
        {(1, 2, 3): "rood"},
        {(1, 2, 3): True},
        {(1, 2, 3): None},
        {"sky": 0},
        "none.txt",
    ],
)
def test_invalid_colors_are_rejected(colors: object) -> None:
    with pytest.raises(InputError):
        map_colors(colors, Vocabulary.parse(["sky", "tree"]), 255, "set.yaml")  # type: ignore[arg-type]
