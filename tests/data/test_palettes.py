from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cliptrase_d2.data.custom import DatasetSpec
from cliptrase_d2.data.inspection import inspect
from cliptrase_d2.data.labels import COLORS, LabelRule
from cliptrase_d2.data.palettes import find_palette_conflict

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def write(path: Path, *palette: tuple[int, int, int]) -> str:
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), "P")
    image.putpalette([channel for color in palette for channel in color])
    image.save(path)
    return str(path)


def test_one_index_with_two_colours(tmp_path: Path) -> None:
    same = [write(tmp_path / "a.png", RED, GREEN), write(tmp_path / "b.png", RED, GREEN, BLUE)]
    assert find_palette_conflict(same, LabelRule(3)) == ""
    other = write(tmp_path / "c.png", RED, BLUE)
    text = find_palette_conflict([*same, other], LabelRule(3))
    assert "value 1 " in text
    assert "a.png" in text
    assert "c.png" in text


@pytest.mark.parametrize(
    "rule", [LabelRule(1), LabelRule(2, 255, {0: 0, 1: 255}), LabelRule(2, 255, {0: 0, 1: 1}, coding=COLORS)]
)
def test_values_without_a_class_may_differ(tmp_path: Path, rule: LabelRule) -> None:
    files = [write(tmp_path / "a.png", RED, GREEN), write(tmp_path / "b.png", RED, BLUE)]
    assert find_palette_conflict(files, rule) == ""


def test_files_without_palettes_and_broken_files(tmp_path: Path) -> None:
    Image.new("L", (2, 1)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"x")
    files = [str(tmp_path / name) for name in ("b.png", "a.png", "none.png")]
    assert find_palette_conflict(files, LabelRule(3)) == ""


def test_doctor_warns(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for name, color in (("a", GREEN), ("b", BLUE)):
        Image.new("RGB", (2, 1)).save(tmp_path / "images" / f"{name}.png")
        write(tmp_path / "labels" / f"{name}.png", RED, color)
    findings = inspect(DatasetSpec("palettes", tmp_path / "images", ("sky", "tree"), tmp_path / "labels"), workers=1)
    assert findings.problems == []
    (warning,) = findings.warnings
    assert "label_colors" in warning
