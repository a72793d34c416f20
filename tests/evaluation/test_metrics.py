import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, jaccard_score

from cliptrase_d2.evaluation.confusion import confusion_matrix
from cliptrase_d2.evaluation.metrics import format_table, group_metrics, segmentation_metrics

# Class a: 3 of 4 pixels correct; b: 2 of 4; c: absent, but one pixel of b is predicted as c.
CONFUSION = torch.tensor([[3, 1, 0], [1, 2, 1], [0, 0, 0]])


def test_metrics_by_hand() -> None:
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
    assert metrics["per_class"]["a"] == pytest.approx({"IoU": 60, "accuracy": 75, "pixels": 4})
    assert metrics["per_class"]["c"] == {"IoU": None, "accuracy": None, "pixels": 0}


def test_group_metrics_by_hand() -> None:
    # All 8 true pixels are of group ab, 5 of them correct. The pixel of b that is predicted as c lowers the IoU of b.
    groups = {"ab": (0, 1), "bc": (1, 2), "c": (2,), "all": (2, 0, 1)}
    assert group_metrics(CONFUSION, groups) == {
        "mIoU-ab": pytest.approx(100 * (3 / 5 + 2 / 5) / 2),
        "pAcc-ab": pytest.approx(100 * 5 / 8),
        "mIoU-bc": pytest.approx(100 * 2 / 5),
        "pAcc-bc": pytest.approx(100 * 2 / 4),
        "mIoU-c": None,
        "pAcc-c": None,
        "mIoU-all": pytest.approx(100 * (3 / 5 + 2 / 5) / 2),
        "pAcc-all": pytest.approx(100 * 5 / 8),
    }
    assert group_metrics(CONFUSION, {}) == {}


def test_class_neither_present_nor_predicted_changes_no_group() -> None:
    confusion = torch.tensor([[2, 2, 0], [0, 0, 0], [0, 0, 0]])
    assert group_metrics(confusion, {"ac": (0, 2)}) == {"mIoU-ac": 50, "pAcc-ac": 50}


def test_metrics_are_none_if_all_pixels_are_ignored() -> None:
    metrics = segmentation_metrics(torch.zeros(2, 2, dtype=torch.int64), ["a", "b"])
    values = [value for name, value in metrics.items() if name not in ("paper", "per_class")]
    assert values + list(metrics["paper"].values()) == [None] * 10
    assert metrics["per_class"]["a"] == {"IoU": None, "accuracy": None, "pixels": 0}
    assert "-" in format_table(metrics)


@pytest.mark.parametrize("pixels", [[5, 7], [4]])  # [4]: one class
def test_perfect_prediction_scores_100_percent(pixels: list[int]) -> None:
    metrics = segmentation_metrics(torch.diag(torch.tensor(pixels)), list("ab")[: len(pixels)])
    assert metrics["pAcc"] == metrics["mAcc"] == metrics["fwIoU"] == metrics["mIoU"] == 100


def test_table_has_a_row_for_each_class() -> None:
    table = format_table(segmentation_metrics(torch.tensor([[3, 1], [0, 0]]), ["1e5", "tree"]))
    rows = {line.split()[0]: line.split()[1:] for line in table.splitlines() if line.strip()}
    assert rows["this"] == ["evaluation", "75.00", "75.00", "75.00", "75.00", "37.41", "37.50"]
    assert rows["paper's"] == ["formulas", "75.00", "37.41", "74.81", "74.81"]
    assert rows["1e5"] == ["75.00", "75.00", "4"]
    assert rows["tree"] == ["-", "-", "0"]


def test_metrics_equal_scikit_learn_if_a_class_is_absent() -> None:
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
