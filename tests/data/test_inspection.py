from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cliptrase_d2.data.benchmarks import BENCHMARKS
from cliptrase_d2.data.custom import DatasetSpec
from cliptrase_d2.data.inspection import get_benchmark_state, inspect
from cliptrase_d2.data.prepare.convert import write_label
from cliptrase_d2.data.rasters import has_rasterio

CLASSES = ("sky", "tree", "road")


def write_pairs(folder: Path, *labels: list[list[int]], suffix: str = ".png") -> DatasetSpec:
    """Write labels and images of their sizes."""
    (folder / "images").mkdir()
    for index, rows in enumerate(labels):
        Image.new("RGB", (len(rows[0]), len(rows))).save(folder / "images" / f"{index}.png")
        write_label(folder / "labels" / f"{index}{suffix}", np.array(rows))
    ignore_label = 65535 if suffix == ".tif" else 255
    return DatasetSpec("small", folder / "images", CLASSES, folder / "labels", ignore_label)


@pytest.mark.parametrize(("suffix", "ignore_label"), [(".png", 255), (".tif", 65535)])
def test_valid_data_set(tmp_path: Path, suffix: str, ignore_label: int) -> None:
    findings = inspect(write_pairs(tmp_path, [[0, ignore_label, 2]], [[2], [2]], suffix=suffix), workers=1)
    assert (findings.pairs, findings.problems) == (2, [])
    assert findings.pixels.tolist() == [1, 0, 3]


def test_result_does_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    spec = write_pairs(tmp_path, *([[index % 4, 1]] for index in range(130)))
    one, two = inspect(spec, workers=1), inspect(spec, workers=2)
    assert len(one.problems) == 32  # every fourth image has the label 3
    assert two.problems == one.problems
    assert two.pixels.tolist() == one.pixels.tolist()


def test_every_problem_is_reported(tmp_path: Path) -> None:
    spec = write_pairs(tmp_path, [[0]], [[1]], [[7]], [[0, 0]], [[1]])
    (tmp_path / "labels/0.png").unlink()
    (tmp_path / "images/1.png").write_bytes((tmp_path / "images/1.png").read_bytes()[:30])
    Image.new("RGB", (3, 3)).save(tmp_path / "images/3.png")
    (tmp_path / "images/4.png").unlink()
    problems = "\n".join(inspect(spec, workers=1).problems)
    assert len(problems.splitlines()) == 5
    for problem in (
        "images/0.png: no label file",
        "labels/4.png: no image",
        "images/1.png: unreadable",
        "labels/2.png: unknown label values 7",
        "labels/3.png: 2x1 pixels",
    ):
        assert f"{tmp_path}/{problem}" in problems


def test_images_without_labels(tmp_path: Path) -> None:
    write_pairs(tmp_path, [[0]])
    findings = inspect(DatasetSpec("small", tmp_path / "images", CLASSES), workers=1)
    assert (findings.pairs, findings.problems, findings.pixels.sum()) == (1, [], 0)


def test_state_of_a_benchmark(tmp_path: Path) -> None:
    benchmark = BENCHMARKS["ade150"]
    state = get_benchmark_state(benchmark, tmp_path)
    assert (state.pairs, state.expected, state.is_complete) == (0, 2000, False)
    assert state.problem == f"{tmp_path / benchmark.images}: no such folder"
    for folder, name in ((benchmark.images, "a.jpg"), (benchmark.labels, "a.png")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / name).touch()
    state = get_benchmark_state(benchmark, tmp_path)
    assert (state.pairs, state.problem, state.is_complete) == (1, "", False)
    assert state.command == f"python datasets/prepare_ade20k_150.py {tmp_path}"


def test_the_range_of_raw_values_is_found_and_nodata_is_not_counted(tmp_path: Path) -> None:
    spec = write_pairs(tmp_path, [[0, 1, 2]], [[2, 2, 2]])
    for index, high in enumerate((900, 3000)):
        Image.fromarray(np.array([[0, 7, high]], np.uint16)).save(tmp_path / "images" / f"{index}.png")
    (warning,) = inspect(spec, workers=2).warnings
    assert "of 0..65535" in warning
    if has_rasterio():
        assert inspect(replace(spec, stretch=(0, 3000)), workers=1).warnings == []


def test_nodata_counts_for_no_class(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    spec = write_pairs(tmp_path, [[0, 1, 2]])
    (tmp_path / "images" / "0.png").unlink()
    shape = {"width": 3, "height": 1, "count": 3, "dtype": "uint8", "photometric": "RGB", "nodata": 0}
    with rasterio.open(tmp_path / "images" / "0.tif", "w", driver="GTiff", **shape) as dataset:
        dataset.write(np.array([[[0, 5, 0]]] * 3, np.uint8))
    assert inspect(spec, workers=1).pixels.tolist() == [0, 1, 0]
