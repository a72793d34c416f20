import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cliptrase_d2.d2 import comm
from cliptrase_d2.data.register import register_dataset
from cliptrase_d2.data.rendering import RawRange
from cliptrase_d2.evaluation.confusion import Counts
from cliptrase_d2.evaluation.evaluator import (
    SegmentationEvaluator,
    extract_metrics,
    metric_names,
)
from cliptrase_d2.evaluation.metrics import MEANS, group_metric_names
from cliptrase_d2.evaluation.object_sizes import find_objects
from cliptrase_d2.utils.errors import InputError


@pytest.fixture
def name(tmp_path: Path) -> str:
    return register_dataset(f"evaluator_{tmp_path.name}", tmp_path / "i", ["sky", "tree"], tmp_path / "l")


def image(file_name: str, truth: list[list[int]] | None = None) -> dict[str, Any]:
    pixels = torch.full((3, 4, 4), 90, dtype=torch.uint8)
    labels = {} if truth is None else {"sem_seg": torch.tensor(truth)}
    return {"file_name": file_name, "image": pixels, **labels}


def output(labels: list[list[int]]) -> dict[str, Any]:
    return {"label_map": torch.tensor(labels)}


def report(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / "inference" / name / "metrics.json").read_text(encoding="utf-8"))


def test_one_matrix_is_summed_over_the_data_set(tmp_path: Path, name: str) -> None:
    evaluator = SegmentationEvaluator(name, tmp_path, context={"protocol": "whole", "config_hash": "abc"})
    evaluator.process([image("a.jpg", [[1]])], [output([[0]])])
    evaluator.reset()
    evaluator.process([image("a.jpg", [[0, 0]])], [output([[0, 1]])])
    evaluator.process(
        [image("b.jpg", [[1, 1, 255]]), image("c.jpg", [[0], [1]])], [output([[1, 1, 0]]), output([[0], [1]])]
    )
    results = evaluator.evaluate()["sem_seg"]
    assert results["pAcc"] == pytest.approx(100 * 5 / 6)
    assert results["mIoU"] == pytest.approx(100 * (2 / 3 + 3 / 4) / 2)
    written = report(tmp_path, name)
    assert {key: written[key] for key in MEANS} == {key: results[key] for key in MEANS}
    assert not {"pACC", "IoU-sky"} & set(written)  # Detectron2's names repeat numbers of the file
    assert written["per_class"]["sky"] == pytest.approx({"IoU": 200 / 3, "accuracy": 200 / 3, "pixels": 3})
    assert (written["images"], written["skipped"], written["no_valid_label"]) == (3, [], [])
    assert (written["protocol"], written["config_hash"]) == ("whole", "abc")
    assert written["paper"].keys() == {"pAcc", "mAcc", "fwIoU", "mIoU"}
    files = sorted(path.name for path in (tmp_path / "inference" / name).iterdir())
    assert files == ["confusion.npz", "metrics.json"]  # nothing else unless requested


def test_worst_images_are_first_with_their_scores(tmp_path: Path, name: str) -> None:
    evaluator = SegmentationEvaluator(name, tmp_path)
    batch = {"good.jpg": [[0, 1]], "half.jpg": [[1, 1]], "empty.jpg": [[255, 255]], "bad.jpg": [[1, 0]]}
    evaluator.process([image(file, truth) for file, truth in batch.items()], [output([[0, 1]])] * 4)
    evaluator.evaluate()
    written = report(tmp_path, name)
    assert [tuple(item.values()) for item in written["worst_images"]] == [
        ("bad.jpg", 0.0),
        ("half.jpg", 50.0),
        ("good.jpg", 100.0),
    ]
    assert written["no_valid_label"] == ["empty.jpg"]


def test_groups_of_classes_have_metrics_of_their_own(tmp_path: Path) -> None:
    groups = {"things": ["tree"], "stuff": ["sky"], "none": ["sea"]}
    name = register_dataset(f"groups_{tmp_path.name}", tmp_path, ["sky", "tree", "sea"], tmp_path, groups=groups)
    evaluator = SegmentationEvaluator(name, tmp_path)
    evaluator.process([image("a.jpg", [[0, 0, 1, 1]])], [output([[0, 1, 1, 1]])])
    results = evaluator.evaluate()["sem_seg"]
    assert {name: results[name] for name in group_metric_names(groups)} == pytest.approx(
        {
            **{"mIoU-things": 100 * 2 / 3, "pAcc-things": 100, "mIoU-stuff": 50, "pAcc-stuff": 50},
            **{"mIoU-none": math.nan, "pAcc-none": math.nan},
        },
        nan_ok=True,
    )
    written = report(tmp_path, name)
    assert (written["mIoU-stuff"], written["mIoU-none"]) == (50, None)
    assert extract_metrics(written) == results  # also where nothing was scored


def test_sizes_of_objects_have_metrics_of_their_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = {"far": ["tree"]}
    name = register_dataset(f"sizes_{tmp_path.name}", tmp_path, ["sky", "tree"], tmp_path, groups=groups)
    truth, prediction = torch.zeros(30, 40, dtype=torch.int64), torch.zeros(30, 40, dtype=torch.int64)
    truth[0, :2], prediction[0, :1] = 1, 1  # 2 of 1200 pixels are small; one is found
    inputs, outputs = {**image("a.jpg"), "sem_seg": truth}, {"label_map": prediction}
    evaluator = SegmentationEvaluator(name, tmp_path)
    evaluator.process([inputs, inputs], [outputs, outputs])
    with caplog.at_level(logging.INFO):
        results = evaluator.evaluate()["sem_seg"]
    assert (results["mIoU_small"], results["mAcc_small-far"]) == (50, 50)
    assert results["mIoU_large"] == pytest.approx(100 * 1198 / 1199)
    assert all(math.isnan(results[name]) for name in ("mIoU_medium", "mIoU_large-far"))
    assert list(results) == metric_names(name)
    written = report(tmp_path, name)
    assert (written["objects_small"], written["objects_medium"], written["objects_large-far"]) == (2, 0, 0)
    assert "small 50.00 (2 objects), medium - (0 objects), large 99.92 (2 objects)" in caplog.text
    # The objects of the mapper give the same, and are not looked for again.
    objects = find_objects(truth, 255)
    monkeypatch.setattr("cliptrase_d2.evaluation.evaluator.find_objects", lambda *_: pytest.fail("they are known"))
    evaluator.reset()
    evaluator.process([{**inputs, "label_objects": objects}] * 2, [outputs, outputs])
    assert evaluator.evaluate()["sem_seg"] == pytest.approx(results, nan_ok=True)


def test_results_of_earlier_versions_have_no_sizes_of_objects(tmp_path: Path, name: str) -> None:
    evaluator = SegmentationEvaluator(name, tmp_path)
    evaluator.process([image("a.jpg", [[0, 1]])], [output([[0, 1]])])
    evaluator.evaluate()
    written = {key: value for key, value in report(tmp_path, name).items() if "_small" not in key}
    results = extract_metrics(written)
    assert (results["mIoU"], results["mIoU_large"]) == (100, 100)
    assert math.isnan(results["mIoU_small"])


def test_results_have_the_names_of_detectron2_too(tmp_path: Path) -> None:
    name = register_dataset(f"names_{tmp_path.name}", tmp_path, ["sky", "tree", "sea"], tmp_path)
    evaluator = SegmentationEvaluator(name, tmp_path)
    evaluator.process([image("a.jpg", [[0, 0, 0, 1]])], [output([[0, 0, 1, 1]])])
    results = evaluator.evaluate()["sem_seg"]
    assert list(results) == metric_names(name)
    expected = {
        **{"pACC": 75, "mACC": 100 * (2 / 3 + 1) / 2},
        **{"IoU-sky": 100 * 2 / 3, "IoU-tree": 50, "IoU-sea": math.nan},
        **{"ACC-sky": 100 * 2 / 3, "ACC-tree": 100, "ACC-sea": math.nan},
    }
    assert {key: results[key] for key in expected} == pytest.approx(expected, nan_ok=True)


def test_skipped_and_unlabelled_images_are_listed(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    evaluator = SegmentationEvaluator(name, tmp_path)
    evaluator.skip("c.jpg", InputError("c.jpg", "unreadable", "Fetch it again."))
    evaluator.process([image("a.jpg", [[255, 255]]), image("b.jpg", [[0]])], [output([[0, 1]]), output([[0]])])
    with caplog.at_level(logging.INFO):
        evaluator.evaluate()
    written = report(tmp_path, name)
    assert (written["pAcc"], written["no_valid_label"]) == (100, ["a.jpg"])
    assert written["skipped"] == [{"file": "c.jpg", "reason": "c.jpg: unreadable. Fetch it again."}]
    assert all(part in caplog.text for part in ("100.00", "a.jpg", "c.jpg"))


@pytest.mark.parametrize(("truth", "is_warned"), [([[0, 255]], True), ([[0, 1]], False), ([[255, 255]], False)])
def test_labels_with_a_single_class_are_reported(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture, truth: list[list[int]], is_warned: bool
) -> None:
    """Masks of 0 and 255 without a ``label_map`` score 100 % whatever the picture shows."""
    evaluator = SegmentationEvaluator(name, tmp_path)
    evaluator.process([image("a.jpg", truth)], [output([[0, 0]])])
    with caplog.at_level(logging.WARNING):
        evaluator.evaluate()
    assert ("single class" in caplog.text) == is_warned


def test_log_without_table_is_one_line(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    evaluator = SegmentationEvaluator(name, tmp_path, log_table=False)
    evaluator.process([image("a.jpg", [[0, 1, 1, 1]])], [output([[0, 1, 1, 0]])])
    with caplog.at_level(logging.INFO):
        evaluator.evaluate()
    (message,) = caplog.messages
    assert all(part in message for part in (name, "pAcc 75.00", "mIoU 58.33"))  # IoU 1/2 and 2/3


@pytest.mark.parametrize("truth", [None, [[255, 255]]])
def test_without_scored_pixels_metrics_are_nan(tmp_path: Path, name: str, truth: list[list[int]] | None) -> None:
    evaluator = SegmentationEvaluator(name, tmp_path, save_predictions=True)
    evaluator.process([image("a.jpg", truth)], [output([[0, 1]])])
    assert all(math.isnan(value) for value in evaluator.evaluate()["sem_seg"].values())
    written = report(tmp_path, name)
    assert (written["mIoU"], written["images"]) == (None, 1)
    assert written["no_valid_label"] == ([] if truth is None else ["a.jpg"])
    assert (tmp_path / "inference" / name / "predictions" / "a.png").is_file()


@pytest.mark.parametrize(("classes", "mode"), [(255, "L"), (256, "I;16"), (847, "I;16")])
def test_predictions_are_images_of_class_indices(tmp_path: Path, classes: int, mode: str) -> None:
    name = register_dataset(f"evaluator_{classes}", tmp_path, [f"class {index}" for index in range(classes)])
    evaluator = SegmentationEvaluator(name, tmp_path, save_predictions=True)
    evaluator.process([image("folder/a.b.jpg")], [output([[0, 7], [classes - 1, 1]])])
    folder = tmp_path / "inference" / name / "predictions"
    assert [path.name for path in folder.iterdir()] == ["a.b.png"]
    with Image.open(folder / "a.b.png") as saved:
        assert saved.mode in (mode, "I" if mode == "I;16" else mode)  # older Pillow reads 16 bits as 32
        assert np.array(saved).tolist() == [[0, 7], [classes - 1, 1]]


@pytest.mark.parametrize(
    ("options", "mode", "expected"),
    [
        ({"label_map": {0: 255, 7: 1, 33: 0}}, "L", [[33, 7, 255]]),
        ({"label_map": {0: 255, 700: 1, 33: 0}}, "I;16", [[33, 700, 255]]),
        ({"reduce_zero_label": True}, "L", [[1, 2, 255]]),
        ({"label_map": {3: 0, 4: 1}, "ignore_label": -1}, "I;16", [[3, 4, 65535]]),
        (
            {"label_colors": {(1, 2, 3): "sky", (9, 8, 7): "tree", (5, 5, 5): 255}},
            "RGB",
            [[[1, 2, 3], [9, 8, 7], [5, 5, 5]]],
        ),
    ],
)
def test_predictions_with_the_values_of_the_label_files(
    tmp_path: Path, options: dict[str, Any], mode: str, expected: list[Any]
) -> None:
    name = register_dataset(f"values_{tmp_path.name}", tmp_path, ["sky", "tree"], tmp_path, **options)
    evaluator = SegmentationEvaluator(name, tmp_path, save_predictions=True, prediction_values="files")
    evaluator.process([image("a.jpg")], [output([[0, 1, -1]])])
    with Image.open(tmp_path / "inference" / name / "predictions" / "a.png") as saved:
        assert saved.mode in (mode, "I" if mode == "I;16" else mode)  # older Pillow reads 16 bits as 32
        assert np.array(saved).tolist() == expected


@pytest.mark.parametrize("label_map", [{1: 0, 2: 0, 3: 1}, {-1: 0, 1: 1}, {70_000: 0, 1: 1}])
def test_label_values_that_cannot_be_written_are_rejected(tmp_path: Path, label_map: dict[int, int]) -> None:
    name = register_dataset(f"values_{tmp_path.name}", tmp_path, ["sky", "tree"], tmp_path, label_map=label_map)
    SegmentationEvaluator(name, tmp_path)
    with pytest.raises(InputError, match=name):
        SegmentationEvaluator(name, tmp_path, prediction_values="files")


@pytest.mark.parametrize(
    ("truth", "words"),
    [
        ([[0, 1, 0, 255]], None),
        ([[0, 0, 255, 255]], "single class"),
        ([[0, 1, 255, 255, 255]], "60.0% of the labelled pixels are not scored"),
    ],
)
def test_labels_that_are_often_misread_are_warned_of(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture, truth: list[list[int]], words: str | None
) -> None:
    evaluator = SegmentationEvaluator(name, tmp_path)
    evaluator.process([image("a.jpg", truth)], [output([[0] * len(truth[0])])])
    with caplog.at_level(logging.WARNING):
        evaluator.evaluate()
    assert report(tmp_path, name)["ignored_pixels"] == truth[0].count(255)
    assert words in caplog.text if words else not caplog.records


def test_counts_of_other_processes_and_earlier_runs_are_added(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = SegmentationEvaluator(name, tmp_path)
    other.process([image("b.jpg", [[1, 1]]), image("c.jpg", [[255]])], [output([[1, 0]]), output([[0]])])
    other.skip("d.jpg", InputError("d.jpg", "", ""))
    sent: list[Any] = []
    with monkeypatch.context() as patch:
        patch.setattr(comm, "gather", lambda share: sent.append(share) or [])
        patch.setattr(comm, "is_main_process", lambda: False)
        assert other.evaluate() == {}
    assert not (tmp_path / "inference").exists()

    main = SegmentationEvaluator(name, tmp_path)
    main.process([image("a.jpg", [[0]])], [output([[0]])])
    monkeypatch.setattr(comm, "gather", lambda share: [share, *sent])
    earlier = Counts(torch.tensor([[0, 0], [1, 0]]), 2, ["e.jpg"], [{"file": "f.jpg", "reason": "broken"}])
    assert main.evaluate(earlier)["sem_seg"]["pAcc"] == 50  # 2 of 4 pixels
    written = report(tmp_path, name)
    assert (written["images"], written["no_valid_label"]) == (5, ["c.jpg", "e.jpg"])
    assert [entry["file"] for entry in written["skipped"]] == ["d.jpg", "f.jpg"]


def test_only_chosen_images_have_overlays(tmp_path: Path, name: str) -> None:
    evaluator = SegmentationEvaluator(name, tmp_path, overlays=["x/a.jpg", "x/c.png"])
    for file_name in ("x/a.jpg", "x/b.jpg", "x/c.png", "y/a.jpg"):
        evaluator.process([image(file_name, [[0, 255]])], [output([[0, 1]])])
    folder = tmp_path / "inference" / name / "overlays"
    assert sorted(path.name for path in folder.iterdir()) == ["a.jpg", "c.jpg"]
    with Image.open(folder / "a.jpg") as picture:
        assert picture.format == "JPEG"
        width_with_truth = picture.width
    evaluator.process([image("x/a.jpg")], [output([[0, 1]])])
    with Image.open(folder / "a.jpg") as picture:
        assert picture.width < width_with_truth


def test_unknown_pixels_are_wrong_for_their_class(tmp_path: Path, name: str) -> None:
    evaluator = SegmentationEvaluator(name, tmp_path, save_predictions=True)
    evaluator.process([image("a.png", [[0, 0, 1, 255]])], [output([[0, -1, 1, -1]])])
    results = evaluator.evaluate()["sem_seg"]
    assert results["pAcc"] == pytest.approx(200 / 3)
    assert (results["IoU-sky"], results["IoU-tree"]) == (50, 100)
    saved = np.array(Image.open(tmp_path / "inference" / name / "predictions" / "a.png"))
    assert saved.tolist() == [[0, 255, 1, 255]]


def test_unknown_pixels_count_as_the_class_that_the_data_set_names(tmp_path: Path) -> None:
    name = register_dataset(f"other_{tmp_path.name}", tmp_path, ["sky", "tree;bush"], tmp_path, unknown="tree;bush")
    evaluator = SegmentationEvaluator(name, tmp_path)
    evaluator.process([image("a.png", [[0, 0, 1, 1]])], [output([[0, -1, 1, -1]])])
    results = evaluator.evaluate()["sem_seg"]
    assert (results["pAcc"], results["ACC-tree"], results["ACC-sky"]) == (75, 100, 50)


@pytest.mark.parametrize(("highs", "is_warned"), [((3000, 2000), True), ((3000, 60000), False)])
def test_narrow_ranges_are_reported_once(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture, highs: tuple[int, ...], is_warned: bool
) -> None:
    evaluator = SegmentationEvaluator(name, tmp_path)
    for high in highs:
        inputs = {**image("a.tif", [[0, 1]]), "raw_range": RawRange(5, high, 65535)}
        evaluator.process([inputs, image("b.jpg", [[0, 1]])], [output([[0, 1]])] * 2)
    earlier = Counts(torch.zeros(2, 2, dtype=torch.int64), raw_range=[1, 9, 65535])  # type: ignore[arg-type]  # from JSON
    with caplog.at_level(logging.WARNING):
        evaluator.evaluate(earlier)
    assert caplog.text.count("16-bit values 1..3000 of 0..65535") == int(is_warned)
