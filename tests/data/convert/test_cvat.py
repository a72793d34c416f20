"""CVAT's XML file: shapes, their order and faults."""

from __future__ import annotations

from pathlib import Path

import pytest

from cliptrase_d2.utils.errors import InputError
from tests.data.convert.sets import convert, labels, write_picture

SQUARE = [[255] * 5, [255, 0, 0, 255, 255], [255, 0, 0, 255, 255], [255] * 5]
POLYGON = '<polygon label="cat" points="1.00,1.00;3.00,1.00;3.00,3.00;1.00,3.00" z_order="0"/>'
BOX = '<box label="cat" xtl="1" ytl="1" xbr="3" ybr="3"/>'
MASK = '<mask label="cat" rle="0, 2, 1, 2, 1" left="1" top="1" width="3" height="2"/>'
LABELS = "<meta><job><labels><label><name>cat</name></label><label><name>ant</name></label></labels></job></meta>"


def write(folder: Path, *shapes: str, image: str = 'name="a.png" width="5" height="4"') -> Path:
    write_picture(folder / "images" / "a.png", (4, 5))
    element = f"<image id='0' {image}>{''.join(shapes)}</image>"
    (folder / "annotations.xml").write_text(f"<annotations><version>1.1</version>{LABELS}{element}</annotations>")
    return folder


@pytest.mark.parametrize("shape", [POLYGON, BOX, MASK], ids=["polygon", "box", "mask"])
def test_every_kind_of_shape(tmp_path: Path, shape: str) -> None:
    source, conversion = convert(write(tmp_path, shape), tmp_path / "out")
    assert source.format == "cvat"
    assert conversion.spec.classes == ("cat", "ant")
    assert labels(tmp_path / "out") == SQUARE


def test_z_order_decides_before_the_order_of_the_file(tmp_path: Path) -> None:
    below = '<box label="ant" xtl="0" ytl="0" xbr="5" ybr="4" z_order="-1"/>'
    _, conversion = convert(write(tmp_path, POLYGON, below), tmp_path / "out")
    assert labels(tmp_path / "out")[1] == [1, 0, 0, 1, 1]
    assert conversion.findings.pairs == {(1, 0): 4}


def test_other_shapes_are_skipped_and_counted(tmp_path: Path) -> None:
    shapes = (POLYGON, '<polyline label="cat" points="0,0;1,1"/>', '<tag label="cat"/>')
    _, conversion = convert(write(tmp_path, *shapes), tmp_path / "out")
    assert labels(tmp_path / "out") == SQUARE
    assert len(conversion.findings.notes.counts) == 2


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ('<polygon label="cat" points="1,1;3,1;nan,3"/>', "'1,1;3,1;nan,3'"),
        ('<polygon label="cat" points="1,1;3,1;3"/>', "has to be numbers"),
        ('<polygon label="cat"/>', "has to be numbers"),
        ('<polygon label="cat" points="1,1;3,1;999999,3"/>', "far outside"),
        (MASK.replace('"0, 2', '"0, 3'), "run lengths of 7 pixels in a box of 3 x 2"),
        (MASK.replace('width="3"', 'width="999999999"'), "run lengths"),
        (BOX.replace("/>", ' rotation="30"/>'), "rotated box"),
        (BOX.replace("/>", ' z_order="x"/>'), "z_order"),
    ],
)
def test_faults_of_shapes(tmp_path: Path, shape: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        convert(write(tmp_path, shape), tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotations>", "cannot be read"),
        ("<annotation><object/></annotation>", "not CVAT's"),
        ("<annotations><track/></annotations>", "videos"),
        ('<!DOCTYPE x [<!ENTITY a "b">]><annotations/>', "document type"),
        ("<annotations/>", "no classes"),
    ],
)
def test_other_files(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "annotations.xml").write_text(text)
    with pytest.raises(InputError, match=message):
        convert(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ('name="../a.png" width="5" height="4"', "not a path below"),
        ('name="a.png" width="6" height="4"', "6 x 4 pixels.*5 x 4"),
        ('name="a.png" width="5"', "height"),
        ('name="" width="5" height="4"', "not a path below"),
    ],
)
def test_faults_of_images(tmp_path: Path, image: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        convert(write(tmp_path, POLYGON, image=image), tmp_path / "out")
