from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics

from cliptrase_d2.evaluation.confusion import confusion_matrix, confusion_of_images
from cliptrase_d2.utils.errors import InputError


def test_rows_are_truth_and_columns_prediction() -> None:
    truth = torch.tensor([[0, 0, 1], [2, 255, 1]])
    prediction = torch.tensor([[0, 1, 1], [0, 2, 1]])
    counts = confusion_matrix(truth, prediction, 3, 255)
    assert counts.dtype == torch.int64
    assert counts.tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 0]]


def test_equals_scikit_learn() -> None:
    random = np.random.default_rng(0)
    truth, prediction = random.integers(0, 7, (2, 40, 30))
    expected = sklearn_metrics.confusion_matrix(truth.ravel(), prediction.ravel(), labels=range(7))
    assert confusion_matrix(truth, prediction, 7, 255).tolist() == expected.tolist()


def test_small_integers_do_not_overflow() -> None:
    labels = np.full((2, 2), 170, dtype=np.uint8)
    assert confusion_matrix(labels, labels, 171, 255)[170, 170] == 4


def test_ignore_only_truth() -> None:
    assert confusion_matrix(torch.full((2, 2), 255), torch.zeros(2, 2), 3, 255).sum() == 0


def test_prediction_does_not_matter_where_the_truth_is_ignored() -> None:
    assert confusion_matrix(torch.tensor([[255, 0]]), torch.tensor([[99, 0]]), 2, 255).tolist() == [[1, 0], [0, 0]]


def test_label_outside_the_classes_is_not_miscounted() -> None:
    with pytest.raises(InputError, match=r"a\.png: the label 100"):
        confusion_matrix(torch.tensor([[100]]), torch.tensor([[0]]), 80, 255, where="a.png")


@pytest.mark.parametrize("value", [-1, 2])
def test_prediction_outside_the_classes(value: int) -> None:
    with pytest.raises(InputError, match=f"the predicted class {value}"):
        confusion_matrix(torch.tensor([[0]]), torch.tensor([[value]]), 2, 255)


def test_different_sizes() -> None:
    with pytest.raises(InputError, match="a prediction of 3x2 for labels of 2x3"):
        confusion_matrix(torch.zeros(3, 2), torch.zeros(2, 3), 2, 255)


def test_images_of_any_sizes_are_summed() -> None:
    truths = [torch.randint(4, size) for size in ((3, 5), (7, 2), (1, 1))]
    predictions = [torch.randint(4, truth.shape) for truth in truths]
    truths[0][0, 0] = 255
    each = [confusion_matrix(truth, found, 4, 255) for truth, found in zip(truths, predictions, strict=True)]
    assert torch.equal(confusion_of_images(truths, predictions, 4, 255, "abc"), sum(each))


def test_the_faulty_one_of_several_images_is_named() -> None:
    truths, predictions = [torch.zeros(2, 2), torch.full((2, 2), 9)], [torch.zeros(2, 2), torch.zeros(2, 2)]
    with pytest.raises(InputError, match=r"b\.png: the label 9"):
        confusion_of_images(truths, predictions, 3, 255, ["a.png", "b.png"])
    with pytest.raises(InputError, match=r"b\.png: a prediction of 2x2 for labels of 3x2"):
        confusion_of_images([truths[0], torch.zeros(2, 3)], predictions, 3, 255, ["a.png", "b.png"])
