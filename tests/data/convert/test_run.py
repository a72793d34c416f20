"""Conversion as a whole: places, the data-set file, worker processes, formats and faults of folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cliptrase_d2.cli.convert import FORMATS
from cliptrase_d2.data.convert import formats
from cliptrase_d2.data.convert.formats import read_source
from cliptrase_d2.data.convert.paint import paint
from cliptrase_d2.data.convert.pictures import clean_name
from cliptrase_d2.data.convert.report import describe
from cliptrase_d2.data.convert.run import convert_source
from cliptrase_d2.data.convert.source import IGNORED, UNLABELLED, Layer, Notes, Options
from cliptrase_d2.data.custom import read_dataset_file
from cliptrase_d2.data.inspection import inspect
from cliptrase_d2.utils.errors import InputError
from tests.data.convert.sets import convert, labels, write_json, write_picture
from tests.data.convert.test_labelme import RECTANGLE, shape, write

SQUARE = shape("cat", [[1, 1], [3, 2]], "rectangle")


def test_layers_are_painted_over_each_other() -> None:
    layers = [
        Layer(0, np.ones((2, 4), bool)),
        Layer(1, np.ones((1, 2), bool), top=1, left=1),
        Layer(2, np.ones((2, 2), bool), left=2),
        Layer(IGNORED, np.ones((1, 1), bool)),
        Layer(UNLABELLED, np.ones((1, 1), bool), left=1),
        Layer(0, np.ones((1, 1), bool), left=1),
    ]
    painted, findings = paint(layers, (2, 4), 4, Notes())
    assert painted.tolist() == [[IGNORED, 0, 2, 2], [0, 1, 2, 2]]
    assert findings.pixels.tolist() == [2, 1, 4, 0]
    assert (findings.unlabelled, findings.ignored, findings.total) == (0, 1, 8)
    assert findings.pairs == {(0, 1): 2, (0, 2): 3, (1, 2): 1}
    assert findings.overlapped == 5  # the pixel of all three classes counts once


def test_the_data_set_file_passes_the_doctor(tmp_path: Path) -> None:
    convert(write(tmp_path / "set", SQUARE), tmp_path / "my out")
    spec = read_dataset_file(tmp_path / "my out" / "dataset.yaml")
    assert (spec.name, spec.classes, spec.ignore_label) == ("my_out", ("cat",), 255)
    findings = inspect(spec, workers=1)
    assert not findings.problems
    assert findings.pixels.tolist() == [6]


def test_paths_are_relative_so_that_both_folders_can_move(tmp_path: Path) -> None:
    convert(write(tmp_path / "all" / "set", SQUARE), tmp_path / "all" / "out")
    (tmp_path / "all").rename(tmp_path / "moved")
    assert len(read_dataset_file(tmp_path / "moved" / "out" / "dataset.yaml").find_files().records) == 1


def test_output_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away")
    convert(write(tmp_path / "set", SQUARE), tmp_path / "link" / "out")
    assert len(read_dataset_file(tmp_path / "link" / "out" / "dataset.yaml").find_files().records) == 1


def test_worker_processes_give_the_same_labels_and_counts(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    for index in range(130):
        write(folder, SQUARE, shape("dog", [[0, 0], [index % 5, 2]], "rectangle"), name=f"p{index}")
    results = []
    for workers in (1, 2):
        output = tmp_path / f"out{workers}"
        source = read_source(Options(str(folder), output, workers=workers))
        conversion = convert_source(source, output, workers=workers)
        files = {path.name: path.read_bytes() for path in (output / "labels").iterdir()}
        results.append((files, conversion.findings.pixels.tolist(), conversion.findings.pairs))
    assert results[0] == results[1]
    assert len(results[0][0]) == 130


def test_folders_of_different_depths(tmp_path: Path) -> None:
    for name in ("a", "deep/b", "deep/deeper/c"):
        write(tmp_path / "set", SQUARE, name=name)
    convert(tmp_path / "set", tmp_path / "out")
    assert len(read_dataset_file(tmp_path / "out" / "dataset.yaml").find_files().records) == 3
    assert labels(tmp_path / "out", "deep/deeper/c") == RECTANGLE


def test_results_among_the_pictures_are_refused(tmp_path: Path) -> None:
    for name in ("one/a", "two/b"):
        write(tmp_path / "set", SQUARE, name=name)
    with pytest.raises(InputError, match="among the pictures"):
        convert(tmp_path / "set", tmp_path / "set" / "out")
    (tmp_path / "flat").mkdir()
    write(tmp_path / "flat" / "labels", SQUARE)
    with pytest.raises(InputError, match="among the pictures"):
        convert(tmp_path / "flat" / "labels", tmp_path / "flat")


def test_a_failed_conversion_leaves_no_data_set_file(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", SQUARE)
    convert(folder, tmp_path / "out")
    write(folder, SQUARE, name="b", imageHeight=9)
    with pytest.raises(InputError, match=r"b\.json"):
        convert(folder, tmp_path / "out")
    assert not (tmp_path / "out" / "dataset.yaml").exists()


def test_pictures_of_other_formats_are_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", SQUARE, imagePath="a.gif")
    Image.new("L", (5, 4)).save(folder / "a.gif")
    with pytest.raises(InputError, match=r"a\.gif: not a picture"):
        convert(folder, tmp_path / "out")


def test_class_names_that_a_data_set_cannot_have(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", SQUARE, shape("cat ", [[0, 0], [1, 1]], "rectangle"))
    with pytest.raises(InputError, match=r"'cat'.*twice|twice.*'cat'"):
        convert(folder, tmp_path / "out")


@pytest.mark.parametrize("name", ["a//b.png", "./a/./b.png", "a/x/../b.png", "a\\b.png"])
def test_names_are_cleaned(name: str) -> None:
    assert clean_name(name, "a.json") == "a/b.png"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../a", "a/../../b", "/a", "\\a", "\\\\host\\a", "c:/a", "a\0b", "a\nb"]
)
def test_names_outside_the_folder_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"a\.json: the picture"):
        clean_name(name, "a.json")


@pytest.mark.parametrize(
    "name", ["labelmap.txt", "obj_class_to_machine_color.json", "class_dict.csv", "SegmentationClass/a.png"]
)
def test_colour_masks_are_not_converted(tmp_path: Path, name: str) -> None:
    (tmp_path / "set" / name).parent.mkdir(parents=True)
    (tmp_path / "set" / name).write_text("{}")
    with pytest.raises(InputError, match="label_colors"):
        convert(tmp_path / "set", tmp_path / "out")


def test_supervisely_is_not_converted(tmp_path: Path) -> None:
    write_json(tmp_path / "set" / "meta.json", {"classes": []})
    write_json(tmp_path / "set" / "ds" / "ann" / "a.png.json", {"size": {}, "objects": []})
    with pytest.raises(InputError, match="label_colors"):
        convert(tmp_path / "set", tmp_path / "out")


@pytest.mark.parametrize("name", ["missing", "empty", "set.txt", "set.xml"])
def test_unknown_sources(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "set.txt").write_text("a")
    (tmp_path / "set.xml").write_text("<a/>")
    with pytest.raises(InputError, match=f"{name}: "):
        convert(tmp_path / name, tmp_path / "out")


def test_format_of_the_user(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", SQUARE)
    source, _ = convert(folder, tmp_path / "out", name="labelme")
    assert source.format == "labelme"
    with pytest.raises(InputError, match="no format"):
        convert(folder, tmp_path / "coco", name="coco")
    with pytest.raises(InputError, match="--from: 'voc'"):
        convert(folder, tmp_path / "voc", name="voc")
    assert set(FORMATS) == set(formats.FORMATS)


def report(tmp_path: Path, *shapes: Any, background: str = "") -> str:
    write(tmp_path / "set", *shapes)
    write(tmp_path / "set", name="empty")
    write_picture(tmp_path / "set" / "other.png", (4, 5))
    source, conversion = convert(tmp_path / "set", tmp_path / "out", background=background)
    return "\n".join(describe(source, conversion, tmp_path / "out"))


def test_report_names_all_that_was_left_out(tmp_path: Path) -> None:
    shapes = (SQUARE, shape("dog", [[3, 1], [4, 1]], "rectangle"), shape("dog", [[0, 0], [4, 0]], "line"))
    text = report(tmp_path, *shapes)
    assert "1 pictures, 2 classes" in text
    assert "unlabelled: 65.00 % of the pixels" in text  # 7 of 20 are labelled
    assert "5.00 % of the pixels are covered by more than one class, most by 'dog' over 'cat' (1 pixels)" in text
    assert "'line'" in text
    assert "pictures without annotations: 1 " in text
    assert "other pictures in the folder: 1 " in text


def test_report_of_a_background(tmp_path: Path) -> None:
    text = report(tmp_path, SQUARE, background="floor")
    assert "became 'floor'" in text
    assert "overlaps: none" in text
    assert "without annotations" not in text
