from __future__ import annotations

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
from cliptrase_d2.evaluation.counts import Counts
from cliptrase_d2.evaluation.evaluator import SegmentationEvaluator, mean_numbers, require_distinct_stems
from cliptrase_d2.utils.errors import InputError


@pytest.fixture
def name(tmp_path: Path) -> str:
    return register_dataset(f"evaluator_{tmp_path.name}", tmp_path / "i", ["sky", "tree"], tmp_path / "l")


def image(file_name: str, truth: list[list[int]] | None = None) -> dict[str, Any]:
    labels = {} if truth is None else {"sem_seg": torch.tensor(truth)}
    return {"file_name": file_name, **labels}


def answer(labels: list[list[int]]) -> dict[str, Any]:
    return {"label_map": torch.tensor(labels)}


def report(output: Path, name: str) -> dict[str, Any]:
    return json.loads((output / "inference" / name / "metrics.json").read_text(encoding="utf-8"))


def test_one_matrix_is_summed_over_the_data_set(tmp_path: Path, name: str) -> None:
    evaluator = SegmentationEvaluator(name, tmp_path, context={"protocol": "whole", "config_hash": "abc"})
    evaluator.process([image("a.jpg", [[0, 0]])], [answer([[0, 1]])])
    evaluator.process(
        [image("b.jpg", [[1, 1, 255]]), image("c.jpg", [[0], [1]])], [answer([[1, 1, 0]]), answer([[0], [1]])]
    )
    results = evaluator.evaluate()["sem_seg"]
    assert results["pAcc"] == pytest.approx(100 * 5 / 6)
    assert results["mIoU"] == pytest.approx(100 * (2 / 3 + 3 / 4) / 2)
    written = report(tmp_path, name)
    assert {key: written[key] for key in results} == results
    assert written["per_class"]["sky"] == pytest.approx({"IoU": 200 / 3, "accuracy": 200 / 3, "pixels": 3})
    assert (written["images"], written["skipped"], written["no_valid_label"]) == (3, [], [])
    assert (written["protocol"], written["config_hash"]) == ("whole", "abc")
    assert written["paper"].keys() == {"pAcc", "mAcc", "fwIoU", "mIoU"}


def test_groups_of_classes_are_reported_apart(tmp_path: Path) -> None:
    groups = {"things": ["tree"], "stuff": ["sky"], "none": ["sea"]}
    name = register_dataset(f"groups_{tmp_path.name}", tmp_path, ["sky", "tree", "sea"], tmp_path, groups=groups)
    evaluator = SegmentationEvaluator(name, tmp_path)
    evaluator.process([image("a.jpg", [[0, 0, 1, 1]])], [answer([[0, 1, 1, 1]])])
    results = evaluator.evaluate()["sem_seg"]
    found = {key: value for key, value in results.items() if "-" in key}
    assert found.pop("mIoU-things") == pytest.approx(100 * 2 / 3)
    assert math.isnan(found.pop("mIoU-none"))
    assert math.isnan(found.pop("pAcc-none"))
    assert found == {"pAcc-things": 100, "mIoU-stuff": 50, "pAcc-stuff": 50}
    written = report(tmp_path, name)
    assert (written["mIoU-stuff"], written["mIoU-none"]) == (50, None)
    assert mean_numbers(written) == pytest.approx(results, nan_ok=True)


def test_reset_forgets(tmp_path: Path, name: str) -> None:
    evaluator = SegmentationEvaluator(name, tmp_path)
    evaluator.process([image("a.jpg", [[0]])], [answer([[1]])])
    evaluator.reset()
    evaluator.process([image("a.jpg", [[0]])], [answer([[0]])])
    assert evaluator.evaluate()["sem_seg"]["pAcc"] == 100
    assert report(tmp_path, name)["images"] == 1


def test_skipped_images_are_named(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    evaluator = SegmentationEvaluator(name, tmp_path)
    evaluator.skip("b.jpg", InputError("b.jpg", "unreadable", "Fetch it again.", allowed="an image"))
    evaluator.process([image("a.jpg", [[0]])], [answer([[0]])])
    with caplog.at_level(logging.INFO):
        evaluator.evaluate()
    assert report(tmp_path, name)["skipped"] == [
        {"file": "b.jpg", "reason": "b.jpg: unreadable. Allowed: an image. Fetch it again."}
    ]
    assert "skipped b.jpg" in caplog.text
    assert "100.00" in caplog.text


def test_without_its_table_an_evaluation_says_a_line(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    evaluator = SegmentationEvaluator(name, tmp_path, log_table=False)
    evaluator.process([image("a.jpg", [[0, 1, 1, 1]])], [answer([[0, 1, 1, 0]])])
    with caplog.at_level(logging.INFO):
        evaluator.evaluate()
    # IoU 1/2 and 2/3.
    assert caplog.messages == [f"{name}: 1 images, pAcc 75.00, mIoU 58.33"]


def test_image_without_a_valid_label_is_counted_and_named(tmp_path: Path, name: str) -> None:
    evaluator = SegmentationEvaluator(name, tmp_path)
    evaluator.process([image("a.jpg", [[255, 255]]), image("b.jpg", [[0]])], [answer([[0, 1]]), answer([[0]])])
    assert evaluator.evaluate()["sem_seg"]["pAcc"] == 100
    assert report(tmp_path, name)["no_valid_label"] == ["a.jpg"]


def test_nothing_to_score(tmp_path: Path, name: str) -> None:
    evaluator = SegmentationEvaluator(name, tmp_path)
    evaluator.process([image("a.jpg", [[255]])], [answer([[0]])])
    assert all(math.isnan(value) for value in evaluator.evaluate()["sem_seg"].values())
    assert report(tmp_path, name)["mIoU"] is None


def test_prediction_only(tmp_path: Path, name: str) -> None:
    evaluator = SegmentationEvaluator(name, tmp_path, save_predictions=True)
    evaluator.process([image("a.jpg")], [answer([[0, 1]])])
    evaluator.evaluate()
    written = report(tmp_path, name)
    assert (written["pAcc"], written["mIoU"], written["images"], written["no_valid_label"]) == (None, None, 1, [])
    assert (tmp_path / "inference" / name / "predictions" / "a.png").is_file()


@pytest.mark.parametrize(("classes", "mode"), [(255, "L"), (256, "I;16"), (847, "I;16")])
def test_predictions_are_class_indices(tmp_path: Path, classes: int, mode: str) -> None:
    name = register_dataset(f"evaluator_{classes}", tmp_path, [f"class {index}" for index in range(classes)])
    evaluator = SegmentationEvaluator(name, tmp_path, save_predictions=True)
    evaluator.process([image("folder/a.b.jpg")], [answer([[0, 7], [classes - 1, 1]])])
    folder = tmp_path / "inference" / name / "predictions"
    assert [path.name for path in folder.iterdir()] == ["a.b.png"]
    with Image.open(folder / "a.b.png") as saved:
        assert saved.mode in (mode, "I" if mode == "I;16" else mode)  # older Pillow reads 16 bits as 32
        assert np.array(saved).tolist() == [[0, 7], [classes - 1, 1]]


def test_predictions_are_saved_only_if_asked(tmp_path: Path, name: str) -> None:
    evaluator = SegmentationEvaluator(name, tmp_path)
    evaluator.process([image("a.jpg", [[0]])], [answer([[0]])])
    evaluator.evaluate()
    written = sorted(path.name for path in (tmp_path / "inference" / name).iterdir())
    assert written == ["confusion.npz", "metrics.json"]


def test_two_images_of_one_stem() -> None:
    require_distinct_stems(["x/a.jpg", "y/b.jpg"], "KEY False")
    with pytest.raises(InputError, match=r"y/a\.jpg: the stem of x/a\.jpg.*Rename one, or set KEY False"):
        require_distinct_stems(["x/a.jpg", "x/b.jpg", "y/a.jpg"], "KEY False")


def test_class_outside_the_vocabulary(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"a\.jpg: the predicted class 2"):
        SegmentationEvaluator(name, tmp_path).process([image("a.jpg", [[0]])], [answer([[2]])])


def test_shares_of_all_processes_are_summed(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    other = SegmentationEvaluator(name, tmp_path)
    other.process([image("b.jpg", [[1, 1]]), image("c.jpg", [[255]])], [answer([[1, 0]]), answer([[0]])])
    other.skip("d.jpg", InputError("d.jpg", "", "", allowed=""))
    sent: list[Any] = []
    with monkeypatch.context() as patch:
        patch.setattr(comm, "gather", lambda share: sent.append(share) or [])
        patch.setattr(comm, "is_main_process", lambda: False)
        assert other.evaluate() == {}
    assert not (tmp_path / "inference").exists()

    first = SegmentationEvaluator(name, tmp_path)
    first.process([image("a.jpg", [[0]])], [answer([[0]])])
    monkeypatch.setattr(comm, "gather", lambda share: [share, *sent])
    assert first.evaluate()["sem_seg"]["pAcc"] == pytest.approx(100 * 2 / 3)
    written = report(tmp_path, name)
    assert (written["images"], written["no_valid_label"]) == (3, ["c.jpg"])
    assert [entry["file"] for entry in written["skipped"]] == ["d.jpg"]


def seen(file_name: str, truth: list[list[int]] | None = None) -> dict[str, Any]:
    return {**image(file_name, truth), "image": torch.full((3, 4, 4), 90, dtype=torch.uint8)}


def test_only_the_chosen_images_are_drawn(tmp_path: Path, name: str) -> None:
    evaluator = SegmentationEvaluator(name, tmp_path, overlays=["x/a.jpg", "x/c.png"])
    for file_name in ("x/a.jpg", "x/b.jpg", "x/c.png", "y/a.jpg"):
        evaluator.process([seen(file_name, [[0, 255]])], [answer([[0, 1]])])
    folder = tmp_path / "inference" / name / "overlays"
    assert sorted(path.name for path in folder.iterdir()) == ["a.jpg", "c.jpg"]
    with Image.open(folder / "a.jpg") as picture:
        assert picture.format == "JPEG"
        beside_truth = picture.size
    evaluator.reset()
    evaluator.process([seen("x/a.jpg")], [answer([[0, 1]])])
    with Image.open(folder / "a.jpg") as picture:
        assert picture.width < beside_truth[0]


def test_what_earlier_runs_counted_is_part_of_the_report(tmp_path: Path, name: str) -> None:
    evaluator = SegmentationEvaluator(name, tmp_path)
    evaluator.process([image("a.jpg", [[0]])], [answer([[0]])])
    earlier = Counts(torch.tensor([[0, 0], [1, 0]]), 2, ["b.jpg"], [{"file": "c.jpg", "reason": "broken"}])
    assert evaluator.evaluate(earlier)["sem_seg"]["pAcc"] == 50
    written = report(tmp_path, name)
    assert (written["images"], written["no_valid_label"]) == (3, ["b.jpg"])
    assert [entry["file"] for entry in written["skipped"]] == ["c.jpg"]
