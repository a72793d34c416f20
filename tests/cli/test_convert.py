"""`cliptrase convert`: results, protection of existing files, and messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.commands import fail, run
from tests.data.convert.sets import labels
from tests.data.convert.test_labelme import RECTANGLE, shape, write

SQUARE = shape("cat", [[1, 1], [3, 2]], "rectangle")


def test_labels_and_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "set", SQUARE)
    assert run("convert", str(folder), str(tmp_path / "out"), "--classes", "dog,cat", "--background", "sky") == 0
    assert labels(tmp_path / "out")[0] == [2] * 5
    output = capsys.readouterr().out
    assert "labelme: 1 pictures, 3 classes" in output
    assert "dataset.yaml" in output
    assert run("doctor", "--dataset", str(tmp_path / "out" / "dataset.yaml"), "--workers", "1") == 0


def test_classes_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    folder = write(tmp_path / "set", SQUARE)
    assert run("convert", str(folder), str(tmp_path / "out"), "--classes-file", str(tmp_path / "classes.txt")) == 0
    assert labels(tmp_path / "out")[1][1] == 1


def test_existing_files_are_kept_without_overwrite(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", SQUARE)
    (tmp_path / "out").mkdir()
    assert run("convert", str(folder), str(tmp_path / "out")) == 0  # an empty folder
    assert "not empty" in fail("convert", str(folder), str(tmp_path / "out"))
    write(folder, shape("cat", [[0, 0], [4, 3]], "rectangle"))
    assert labels(tmp_path / "out") == RECTANGLE
    assert run("convert", str(folder), str(tmp_path / "out"), "--overwrite") == 0
    assert labels(tmp_path / "out") == [[0] * 5] * 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("FOLDER/missing", "FOLDER/out"), "missing: no such file"),
        (("https://example.org/a.json", "FOLDER/out"), "an address in a network"),
        (("FOLDER/set", "FOLDER/set/a.json"), "a.json: a file"),
        (("FOLDER/set", "FOLDER/out", "--images", "FOLDER/missing"), "--images"),
        (("FOLDER/set", "FOLDER/out", "--classes-file", "FOLDER/missing"), "missing: no such file"),
        (("FOLDER/set", "FOLDER/set/a.json/out"), "FOLDER: "),
    ],
)
def test_faults_are_one_line(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    write(tmp_path / "set", SQUARE)
    text = fail("convert", *(word.replace("FOLDER", str(tmp_path)) for word in words))
    assert message in text
    assert "\n" not in text
