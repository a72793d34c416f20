from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, jaccard_score

from cliptrase_d2.evaluation.confusion import confusion_matrix
from cliptrase_d2.evaluation.metrics import group_metrics, segmentation_metrics

# Class a: 3 of 4 pixels right, b: 2 of 4, c: absent, but one pixel of b is taken for it.
CONFUSION = torch.tensor([[3, 1, 0], [1, 2, 1], [0, 0, 0]])


def test_by_hand() -> None:
    metrics = segmentation_metrics(CONFUSION, ["a", "b", "c"])
    assert metrics["pAcc"] == pytest.approx(100 * 5 / 8)
    assert metrics["mAcc"] == pytest.approx(100 * (3 / 4 + 2 / 4) / 2)
    assert metrics["mIoU"] == pytest.approx(100 * (3 / 5 + 2 / 5) / 2)
    assert metrics["fwIoU"] == pytest.approx(100 * (3 / 5 + 2 / 5) / 2)  # four pixels each
    assert metrics["mIoU_all_classes"] == pytest.approx(100 * (3 / 5 + 2 / 5 + 0) / 3)
    assert metrics["mAcc_all_classes"] == pytest.approx(100 * (3 / 4.01 + 2 / 4.01 + 0) / 3)
    assert metrics["paper"] == pytest.approx(
        {
            "pAcc": 100 * 5 / 8,
            "mAcc": 100 * (3 / 4.01 + 2 / 4.01 + 0) / 3,
            "fwIoU": 100 * (3 / 5.01 + 2 / 5.01) / 2,
            "mIoU": 100 * (3 / 5.01 + 2 / 5.01) / 2,
        }
    )


def test_per_class_and_absent_class() -> None:
    per_class = segmentation_metrics(CONFUSION, ["a", "b", "c"])["per_class"]
    assert per_class["a"] == pytest.approx({"IoU": 60, "accuracy": 75, "pixels": 4})
    assert per_class["c"] == {"IoU": None, "accuracy": None, "pixels": 0}


def test_groups_by_hand() -> None:
    # Of group ab all 8 true pixels count, 5 of them right. c is absent; b's pixel that is taken for c counts against b.
    groups = {"ab": (0, 1), "bc": (1, 2), "c": (2,)}
    assert group_metrics(CONFUSION, groups) == {
        "mIoU-ab": pytest.approx(100 * (3 / 5 + 2 / 5) / 2),
        "pAcc-ab": pytest.approx(100 * 5 / 8),
        "mIoU-bc": pytest.approx(100 * 2 / 5),
        "pAcc-bc": pytest.approx(100 * 2 / 4),
        "mIoU-c": None,
        "pAcc-c": None,
    }


def test_a_group_of_all_classes_scores_as_the_whole() -> None:
    metrics = segmentation_metrics(CONFUSION, ["a", "b", "c"])
    whole = group_metrics(CONFUSION, {"all": (2, 0, 1)})
    assert (whole["mIoU-all"], whole["pAcc-all"]) == pytest.approx((metrics["mIoU"], metrics["pAcc"]))


def test_a_class_that_is_neither_there_nor_predicted_changes_no_group() -> None:
    confusion = torch.tensor([[2, 2, 0], [0, 0, 0], [0, 0, 0]])
    assert group_metrics(confusion, {"ac": (0, 2)}) == {"mIoU-ac": 50, "pAcc-ac": 50}


def test_no_groups_no_numbers() -> None:
    assert group_metrics(CONFUSION, {}) == {}


def test_ignore_only_truth_gives_no_number() -> None:
    metrics = segmentation_metrics(torch.zeros(2, 2, dtype=torch.int64), ["a", "b"])
    numbers = [value for name, value in metrics.items() if name not in ("paper", "per_class")]
    assert numbers + list(metrics["paper"].values()) == [None] * 10
    assert metrics["per_class"]["a"] == {"IoU": None, "accuracy": None, "pixels": 0}


def test_perfect_prediction() -> None:
    metrics = segmentation_metrics(torch.diag(torch.tensor([5, 7])), ["a", "b"])
    assert metrics["pAcc"] == metrics["mAcc"] == metrics["fwIoU"] == metrics["mIoU"] == 100


def test_one_class() -> None:
    assert segmentation_metrics(torch.tensor([[4]]), ["a"])["mIoU"] == 100


def test_equals_scikit_learn_and_detectron2_where_a_class_is_absent() -> None:
    random = np.random.default_rng(0)
    truth, prediction = random.integers(0, 5, (50, 50)), random.integers(0, 6, (50, 50))
    metrics = segmentation_metrics(confusion_matrix(truth, prediction, 6, 255), list("abcdef"))
    present = list(range(5))
    jaccard = jaccard_score(truth.ravel(), prediction.ravel(), labels=present, average="macro")
    weighted = jaccard_score(truth.ravel(), prediction.ravel(), labels=present, average="weighted")
    assert metrics["mIoU"] == pytest.approx(100 * jaccard)
    assert metrics["fwIoU"] == pytest.approx(100 * weighted)
    assert metrics["pAcc"] == pytest.approx(100 * (truth == prediction).mean())
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        assert metrics["mAcc"] == pytest.approx(100 * balanced_accuracy_score(truth.ravel(), prediction.ravel()))
    assert {name: metrics[name] for name in ("mAcc", "mIoU", "fwIoU", "pAcc")} == pytest.approx(
        detectron2_formulas(truth, prediction, 6)
    )


def detectron2_formulas(truth: np.ndarray, prediction: np.ndarray, num_classes: int) -> dict[str, float]:
    """Detectron2's SemSegEvaluator, class by class: means over the classes that have true pixels."""
    accuracies, ious, weighted = [], [], 0.0
    for index in range(num_classes):
        true = int((truth == index).sum())
        both = int(((truth == index) & (prediction == index)).sum())
        either = int(((truth == index) | (prediction == index)).sum())
        if true:
            accuracies.append(both / true)
            ious.append(both / either)
            weighted += both / either * true / truth.size
    return {
        "mAcc": 100 * sum(accuracies) / len(accuracies),
        "mIoU": 100 * sum(ious) / len(ious),
        "fwIoU": 100 * weighted,
        "pAcc": 100 * float((truth == prediction).mean()),
    }
