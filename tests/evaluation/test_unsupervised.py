import json
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cliptrase_d2.data.register import register_dataset
from cliptrase_d2.evaluation.unsupervised import UnsupervisedEvaluator, count_classes, group_masks, match_groups
from cliptrase_d2.utils.errors import InputError

LEFT, RIGHT, LOW = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


def test_class_pixels_of_each_mask_by_hand() -> None:
    assignment = torch.tensor([[0, 0, 1], [0, 1, 1]])
    truth = torch.tensor([[2, 0, 255], [2, 1, 1]])
    # Mask 0: two pixels of class 2, one of class 0; mask 1: two of class 1, one ignored; mask 2: empty.
    assert count_classes(assignment, truth, 3, 3, 255).tolist() == [[1, 0, 2], [0, 2, 0], [0, 0, 0]]
    assert not count_classes(torch.zeros(2, 2).long(), torch.full((2, 2), 255), 1, 4, 255).any()


def test_matching_is_the_best_of_all_permutations() -> None:
    counts = np.random.default_rng(0).integers(0, 100, (5, 5))
    best = max(sum(counts[order[group], group] for group in range(5)) for order in permutations(range(5)))
    matched = match_groups(counts)
    assert sorted(matched) == [0, 1, 2, 3, 4]
    assert counts[matched, np.arange(5)].sum() == best


def test_matching_of_fewer_groups_than_classes() -> None:
    assert match_groups(np.array([[0, 1], [5, 0], [0, 9]])).tolist() == [1, 2]


def test_groups_depend_on_directions_only() -> None:
    generator = np.random.default_rng(1)
    members = generator.integers(0, 3, 60)
    lengths = generator.uniform(0.1, 10, (60, 1))
    features = lengths * (np.eye(8)[members] + 0.01 * generator.normal(size=(60, 8)))
    groups = group_masks(features, np.ones(60), 3, seed=0)
    assert len(set(zip(groups, members, strict=True))) == 3


def test_groups_depend_on_neither_chance_nor_the_last_digits_of_a_feature() -> None:
    features = np.random.default_rng(4).normal(size=(50, 4)).astype(np.float32)
    first, again, rounded = (
        group_masks(values, np.ones(50), 5, seed=3).tolist() for values in (features, features, features * (1 + 1e-7))
    )
    assert first == again == rounded


def test_mask_without_scored_pixels_gets_a_group() -> None:
    assert set(group_masks(np.eye(4), np.array([1, 1, 1, 0]), 2, seed=0)) <= {0, 1}


@pytest.fixture
def name(tmp_path: Path) -> str:
    return register_dataset(f"groups_{tmp_path.name}", tmp_path / "images", ["sky", "tree", "sea"], tmp_path / "labels")


def evaluator(name: str, folder: Path, groups: int = 3, **arguments: Any) -> UnsupervisedEvaluator:
    return UnsupervisedEvaluator(name, str(folder), groups=groups, seed=0, **arguments)


def image(stem: str, truth: list[list[int]]) -> dict[str, Any]:
    pixels = torch.zeros(3, len(truth), len(truth[0]), dtype=torch.uint8)
    return {"file_name": f"{stem}.png", "image": pixels, "sem_seg": torch.tensor(truth)}


def masks(assignment: list[list[int]], *features: tuple[float, ...]) -> dict[str, Any]:
    return {"assignment": torch.tensor(assignment), "mask_features": torch.tensor(features)}


# Features of sky point LEFT, of trees RIGHT, of the sea LOW. One pixel of "b" is in the wrong mask, one is ignored.
INPUTS = [image("a", [[0, 0, 1], [0, 0, 1]]), image("b", [[2, 2, 0], [2, 2, 255]])]
OUTPUTS = [masks([[0, 0, 1], [0, 0, 1]], LEFT, RIGHT), masks([[0, 0, 0], [0, 0, 1]], LOW, LEFT)]


def report(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / "inference" / name / "metrics.json").read_text())


def test_groups_are_matched_to_the_classes_of_most_pixels(tmp_path: Path, name: str) -> None:
    scored = evaluator(name, tmp_path)
    scored.process([*INPUTS, image("c", [[255]])], [*OUTPUTS, masks([[0]], LOW)])
    results = scored.evaluate()
    # 10 of 11 pixels are correct: 4 of 5 of the sky, all 2 of trees, all 4 of the sea and one of the sky.
    assert results["sem_seg"]["pAcc"] == pytest.approx(1000 / 11)
    assert results["sem_seg"]["mIoU"] == pytest.approx(100 * (4 / 5 + 1 + 4 / 5) / 3)
    written = report(tmp_path, name)
    assert (written["images"], written["no_valid_label"]) == (3, ["c.png"])
    assert (written["groups"]["count"], written["groups"]["masks"]) == (3, 5)
    assert sorted(written["groups"]["classes"]) == ["sea", "sky", "tree"]


def test_results_do_not_depend_on_order_batches_or_earlier_use(tmp_path: Path, name: str) -> None:
    scored = evaluator(name, tmp_path)
    scored.process(INPUTS, OUTPUTS)
    first = scored.evaluate()
    scored.reset()
    for index in (1, 0):
        scored.process(INPUTS[index : index + 1], OUTPUTS[index : index + 1])
    assert scored.evaluate() == first


def test_one_group_becomes_the_largest_class(tmp_path: Path, name: str) -> None:
    scored = evaluator(name, tmp_path, groups=1)
    scored.process(INPUTS, OUTPUTS)
    assert scored.evaluate()["sem_seg"]["pAcc"] == pytest.approx(500 / 11)  # 5 of 11 pixels are sky
    assert report(tmp_path, name)["groups"]["classes"] == ["sky"]


def test_predictions_and_overlays_are_written_after_the_last_image(tmp_path: Path, name: str) -> None:
    scored = evaluator(name, tmp_path, save_predictions=True, overlays=["b.png"])
    scored.process(INPUTS, [{**output, "pred_masks": torch.ones(1, 2, 3)} for output in OUTPUTS])
    folder = tmp_path / "inference" / name
    assert not folder.exists()
    scored.evaluate()
    assert np.asarray(Image.open(folder / "predictions" / "a.png")).tolist() == [[0, 0, 1], [0, 0, 1]]
    assert np.asarray(Image.open(folder / "predictions" / "b.png")).tolist() == [[2, 2, 2], [2, 2, 0]]
    assert (folder / "overlays" / "b.jpg").is_file()
    assert (folder / "gallery" / "b.json").is_file()


@pytest.mark.parametrize("groups", [4, -1])
def test_number_of_groups_outside_the_range_is_rejected(tmp_path: Path, name: str, groups: int) -> None:
    with pytest.raises(InputError, match=rf"TEST\.UNSUPERVISED_GROUPS: {groups}\. .*1 to 3"):
        evaluator(name, tmp_path, groups=groups)


def test_fewer_masks_than_groups_are_rejected(tmp_path: Path, name: str) -> None:
    scored = evaluator(name, tmp_path)
    scored.process(INPUTS[:1], OUTPUTS[:1])
    with pytest.raises(InputError, match=r"TEST\.UNSUPERVISED_GROUPS: 3 .*2 masks"):
        scored.evaluate()


def test_image_without_labels_is_rejected(tmp_path: Path, name: str) -> None:
    unlabelled = {key: value for key, value in INPUTS[0].items() if key != "sem_seg"}
    with pytest.raises(InputError, match=r"a\.png: .*labels"):
        evaluator(name, tmp_path).process([unlabelled], OUTPUTS[:1])
