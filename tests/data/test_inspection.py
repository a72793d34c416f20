from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cliptrase_d2.data.benchmarks import BENCHMARKS
from cliptrase_d2.data.custom import DatasetSpec
from cliptrase_d2.data.inspection import benchmark_state, inspect
from cliptrase_d2.data.prepare.convert import write_label

CLASSES = ("sky", "tree", "road")


def write_pairs(folder: Path, *labels: list[list[int]], suffix: str = ".png") -> DatasetSpec:
    """Images of the sizes of their labels, and the data set that they are."""
    for index, rows in enumerate(labels):
        pixels = np.zeros((len(rows), len(rows[0]), 3), np.uint8)
        (folder / "images").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / "images" / f"{index}.png")
        write_label(folder / "labels" / f"{index}{suffix}", np.array(rows))
    ignore_label = 65535 if suffix == ".tif" else 255
    return DatasetSpec("small", folder / "images", CLASSES, folder / "labels", ignore_label)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sound_data_set(tmp_path: Path, suffix: str) -> None:
    ignored = 65535 if suffix == ".tif" else 255
    findings = inspect(write_pairs(tmp_path, [[0, ignored, 2]], [[2], [2]], suffix=suffix), workers=1)
    assert (findings.pairs, findings.problems) == (2, [])
    assert findings.pixels.tolist() == [1, 0, 3]


def test_many_processes_find_what_one_finds(tmp_path: Path) -> None:
    spec = write_pairs(tmp_path, *([[index % 4, 1]] for index in range(130)))
    alone, together = inspect(spec, workers=1), inspect(spec, workers=2)
    assert len(alone.problems) == 32  # every fourth has the label 3
    assert together.problems == alone.problems
    assert together.pixels.tolist() == alone.pixels.tolist()


def test_every_problem_is_named(tmp_path: Path) -> None:
    spec = write_pairs(tmp_path, [[0]], [[1]], [[7]], [[0, 0]], [[1]])
    (tmp_path / "labels/0.png").unlink()
    (tmp_path / "images/1.png").write_bytes((tmp_path / "images/1.png").read_bytes()[:30])
    Image.new("RGB", (3, 3)).save(tmp_path / "images/3.png")
    (tmp_path / "images/4.png").unlink()
    problems = inspect(spec, workers=1).problems
    assert len(problems) == 5
    for path, said in (
        ("images/0.png", "no label file of that stem"),
        ("labels/4.png", "no image of that stem"),
        ("images/1.png", "unreadable"),
        ("labels/2.png", "the label values 7"),
        ("labels/3.png", "2x1 pixels, its image"),
    ):
        assert any(str(tmp_path / path) in problem and said in problem for problem in problems), (path, problems)


def test_images_without_labels(tmp_path: Path) -> None:
    write_pairs(tmp_path, [[0]])
    findings = inspect(DatasetSpec("small", tmp_path / "images", CLASSES), workers=1)
    assert (findings.pairs, findings.problems, findings.pixels.sum()) == (1, [], 0)


def test_state_of_a_benchmark(tmp_path: Path) -> None:
    benchmark = BENCHMARKS["ade150"]
    state = benchmark_state(benchmark, tmp_path)
    assert (state.found, state.expected, state.is_complete) == (0, 2000, False)
    assert state.problem == f"{tmp_path / benchmark.images}: no such folder"
    for folder, name in ((benchmark.images, "a.jpg"), (benchmark.labels, "a.png")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / name).touch()
    state = benchmark_state(benchmark, tmp_path)
    assert (state.found, state.problem, state.is_complete) == (1, "", False)
    assert state.remedy == f"python datasets/prepare_ade20k_150.py {tmp_path}"
