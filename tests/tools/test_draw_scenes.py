"""The drawn scenes are the same every time, and labelled as their data-set file says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from tools import draw_scenes
from tools.draw_scenes import CLASSES, HEIGHT, SHAPES, WIDTH, draw_scene, write_scenes


def test_same_index_and_seed_give_the_same_scene() -> None:
    for first, second in zip(draw_scene(3, seed=1), draw_scene(3, seed=1), strict=True):
        assert np.array_equal(first, second)


def test_another_index_or_seed_gives_another_scene() -> None:
    image, _ = draw_scene(0, seed=0)
    assert not np.array_equal(image, draw_scene(1, seed=0)[0])
    assert not np.array_equal(image, draw_scene(0, seed=1)[0])


def test_image_and_label_have_one_size_and_labels_are_classes() -> None:
    image, label = draw_scene(0)
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert label.shape == (HEIGHT, WIDTH)
    assert image.dtype == label.dtype == np.uint8
    assert label.max() < len(CLASSES)


def test_every_class_occurs_in_the_default_series() -> None:
    seen = np.unique(np.stack([draw_scene(index)[1] for index in range(24)]))
    assert seen.tolist() == list(range(len(CLASSES)))


def test_a_shape_covers_its_own_area() -> None:
    # A regular polygon with k corners covers k/2·sin(2π/k) of its squared radius; the radius is the first draw.
    for name in ("circle", "square", "triangle"):
        radius = np.random.default_rng(5).uniform(HEIGHT / 12, HEIGHT / 5)
        corners = SHAPES[name][0]
        area = corners / 2 * np.sin(2 * np.pi / corners) * radius**2
        drawn = draw_scenes._shape(name, np.random.default_rng(5)).sum()
        assert abs(drawn - area) < 5 * radius  # the border's pixels belong to the shape


def test_written_files_hold_what_was_drawn(tmp_path: Path) -> None:
    dataset = write_scenes(tmp_path, count=2, seed=4)
    spec = yaml.safe_load(dataset.read_text(encoding="utf-8"))
    assert spec["classes"] == list(CLASSES)
    for folder, drawn in zip(("images", "labels"), draw_scene(1, seed=4), strict=True):
        files = sorted((tmp_path / spec[folder]).iterdir())
        assert [file.name for file in files] == ["scene_000.png", "scene_001.png"]
        assert np.array_equal(np.array(Image.open(files[1])), drawn)


def test_command_line_refuses_a_count_of_none(tmp_path: Path) -> None:
    command = [sys.executable, str(draw_scenes.__file__), str(tmp_path / "scenes"), "--count", "0"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert "--count 0" in result.stderr
    assert not (tmp_path / "scenes").exists()
