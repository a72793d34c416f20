"""An evaluation without words, on masks made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cliptrase_d2.data.register import register_dataset
from cliptrase_d2.evaluation.unsupervised import UnsupervisedEvaluator
from cliptrase_d2.utils.errors import InputError

LEFT, RIGHT, LOW = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


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


# Sky is what points LEFT, tree RIGHT, sea LOW; one pixel of "b" is in the wrong mask, one is ignored.
INPUTS = [image("a", [[0, 0, 1], [0, 0, 1]]), image("b", [[2, 2, 0], [2, 2, 255]])]
OUTPUTS = [masks([[0, 0, 1], [0, 0, 1]], LEFT, RIGHT), masks([[0, 0, 0], [0, 0, 1]], LOW, LEFT)]


def report(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / "inference" / name / "metrics.json").read_text())


def test_groups_become_the_classes_that_most_pixels_agree_on(tmp_path: Path, name: str) -> None:
    scored = evaluator(name, tmp_path)
    scored.process(INPUTS, OUTPUTS)
    numbers = scored.evaluate()["sem_seg"]
    # Of 11 pixels 10 are right: sky 4 of 5, taken for nothing else; tree 2 of 2; sea 4 and the one of sky.
    assert numbers["pAcc"] == pytest.approx(1000 / 11)
    assert numbers["mIoU"] == pytest.approx(100 * (4 / 5 + 1 + 4 / 5) / 3)
    written = report(tmp_path, name)
    assert written["images"] == 2
    assert written["groups"]["count"] == 3
    assert written["groups"]["masks"] == 4
    assert sorted(written["groups"]["classes"]) == ["sea", "sky", "tree"]


def test_the_order_and_the_batches_change_nothing(tmp_path: Path, name: str) -> None:
    together, apart = evaluator(name, tmp_path / "together"), evaluator(name, tmp_path / "apart")
    together.process(INPUTS, OUTPUTS)
    for index in (1, 0):
        apart.process(INPUTS[index : index + 1], OUTPUTS[index : index + 1])
    assert together.evaluate() == apart.evaluate()


def test_one_group_is_one_class(tmp_path: Path, name: str) -> None:
    scored = evaluator(name, tmp_path, groups=1)
    scored.process(INPUTS, OUTPUTS)
    assert scored.evaluate()["sem_seg"]["pAcc"] == pytest.approx(500 / 11)  # all is sky, as 5 of 11 pixels are
    assert report(tmp_path, name)["groups"]["classes"] == ["sky"]


def test_predictions_and_pictures_come_after_the_last_image(tmp_path: Path, name: str) -> None:
    scored = evaluator(name, tmp_path, save_predictions=True, overlays=["b.png"])
    scored.process(INPUTS, [{**of, "pred_masks": torch.ones(1, 2, 3)} for of in OUTPUTS])
    folder = tmp_path / "inference" / name
    assert not folder.exists()
    scored.evaluate()
    assert np.asarray(Image.open(folder / "predictions" / "a.png")).tolist() == [[0, 0, 1], [0, 0, 1]]
    assert np.asarray(Image.open(folder / "predictions" / "b.png")).tolist() == [[2, 2, 2], [2, 2, 0]]
    assert (folder / "overlays" / "b.jpg").is_file()
    assert (folder / "gallery" / "b.json").is_file()


def test_an_image_without_a_label_to_score_is_named(tmp_path: Path, name: str) -> None:
    scored = evaluator(name, tmp_path)
    scored.process([*INPUTS, image("c", [[255]])], [*OUTPUTS, masks([[0]], LOW)])
    scored.evaluate()
    assert report(tmp_path, name)["no_valid_label"] == ["c.png"]


def test_once_more_forgets_what_was_seen(tmp_path: Path, name: str) -> None:
    scored = evaluator(name, tmp_path)
    scored.process(INPUTS, OUTPUTS)
    first = scored.evaluate()
    scored.reset()
    scored.process(INPUTS, OUTPUTS)
    assert scored.evaluate() == first


@pytest.mark.parametrize("groups", [4, -1])
def test_more_groups_than_classes_are_refused(tmp_path: Path, name: str, groups: int) -> None:
    with pytest.raises(InputError, match=rf"TEST\.UNSUPERVISED_GROUPS: {groups}. Allowed: 1 to 3"):
        evaluator(name, tmp_path, groups=groups)


def test_an_image_without_labels_is_refused(tmp_path: Path, name: str) -> None:
    given = {key: value for key, value in INPUTS[0].items() if key != "sem_seg"}
    with pytest.raises(InputError, match=r"a\.png: no labels"):
        evaluator(name, tmp_path).process([given], OUTPUTS[:1])


def test_fewer_masks_than_groups_are_refused(tmp_path: Path, name: str) -> None:
    scored = evaluator(name, tmp_path)
    scored.process(INPUTS[:1], OUTPUTS[:1])
    with pytest.raises(InputError, match="3 groups for the 2 masks"):
        scored.evaluate()
