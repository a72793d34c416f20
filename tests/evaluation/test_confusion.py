import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics

from cliptrase_d2.evaluation.confusion import (
    Counts,
    batch_confusion_matrix,
    confusion_matrix,
    count_correct,
    select_worst,
)
from cliptrase_d2.utils.errors import InputError


def test_rows_are_truth_and_columns_prediction() -> None:
    truth = torch.tensor([[0, 0, 1], [2, 255, 1]])
    prediction = torch.tensor([[0, 1, 1], [0, 99, 1]])  # any value where the truth is ignored
    counts = confusion_matrix(truth, prediction, 3, 255)
    assert counts.dtype == torch.int64
    assert counts.tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 0]]


def test_equals_scikit_learn() -> None:
    truth, prediction = np.random.default_rng(0).integers(0, 7, (2, 40, 30))
    expected = sklearn_metrics.confusion_matrix(truth.ravel(), prediction.ravel(), labels=range(7))
    assert confusion_matrix(truth, prediction, 7, 255).tolist() == expected.tolist()


def test_small_integers_do_not_overflow() -> None:
    labels = np.full((2, 2), 170, dtype=np.uint8)
    assert confusion_matrix(labels, labels, 171, 255)[170, 170] == 4


def test_only_ignored_pixels_count_nothing() -> None:
    assert confusion_matrix(torch.full((2, 2), 255), torch.zeros(2, 2), 3, 255).sum() == 0


@pytest.mark.parametrize(("truth", "prediction", "value"), [(100, 0, "label 100"), (0, -2, "-2"), (0, 80, "80")])
def test_labels_outside_the_classes_are_rejected(truth: int, prediction: int, value: str) -> None:
    with pytest.raises(InputError, match=rf"a\.png: .*{value}"):
        confusion_matrix(torch.tensor([[truth]]), torch.tensor([[prediction]]), 80, 255, where="a.png")


def test_different_sizes_are_rejected() -> None:
    with pytest.raises(InputError, match=r"labels: .*3x2.*2x3"):
        confusion_matrix(torch.zeros(3, 2), torch.zeros(2, 3), 2, 255)


def test_images_of_different_sizes_are_summed() -> None:
    truths = [torch.randint(4, size) for size in ((3, 5), (7, 2), (1, 1))]
    predictions = [torch.randint(4, truth.shape) for truth in truths]
    truths[0][0, 0] = 255
    matrices = [confusion_matrix(*pair, 4, 255) for pair in zip(truths, predictions, strict=True)]
    assert torch.equal(batch_confusion_matrix(truths, predictions, 4, 255, "abc"), sum(matrices))


def test_error_names_the_image_of_a_batch() -> None:
    truths, predictions = [torch.zeros(2, 2), torch.full((2, 2), 9)], [torch.zeros(2, 2), torch.zeros(2, 2)]
    with pytest.raises(InputError, match=r"b\.png: .*label 9"):
        batch_confusion_matrix(truths, predictions, 3, 255, ["a.png", "b.png"])
    with pytest.raises(InputError, match=r"b\.png: .*2x2.*3x2"):
        batch_confusion_matrix([truths[0], torch.zeros(2, 3)], predictions, 3, 255, ["a.png", "b.png"])


def test_unknown_pixels_have_a_column_of_their_own() -> None:
    truth, prediction = torch.tensor([[0, 1, 1, 255]]), torch.tensor([[-1, 1, -1, -1]])
    counts = confusion_matrix(truth, prediction, 2, 255)
    assert counts.tolist() == [[0, 0, 1], [0, 1, 1]]
    ignored = confusion_matrix(truth[:, 3:], prediction[:, 3:], 2, 255)
    assert ignored.tolist() == [[0, 0], [0, 0]]  # nothing that is scored is unknown
    assert (Counts(ignored, 1) + Counts(counts, 1)).confusion.tolist() == counts.tolist()
    both = batch_confusion_matrix([truth, truth[:, :2]], [prediction, truth[:, :2]], 2, 255, "ab")
    assert both.tolist() == [[1, 0, 1], [0, 2, 1]]


def test_correct_pixels_by_hand() -> None:
    truth, prediction = torch.tensor([[0, 1, 1], [255, 2, 2]]), torch.tensor([[0, 1, 0], [0, -1, 2]])
    assert count_correct(truth, prediction, 255).tolist() == [5, 3]  # an unknown pixel is wrong
    assert count_correct(torch.full((2, 2), 255), torch.zeros(2, 2), 255).tolist() == [0, 0]


def test_worst_images_of_all_shares_are_kept() -> None:
    images = [{"file": f"{index:02d}.jpg", "pAcc": float(index * 7 % 30)} for index in range(30)]
    first, second = (Counts(torch.zeros(1, 1), worst=select_worst(images[part::2])) for part in (0, 1))
    assert [image["pAcc"] for image in (first + second).worst] == list(range(20))
    assert (first + second).worst == (second + first).worst


def test_equally_bad_images_are_sorted_by_file() -> None:
    images = [{"file": file, "pAcc": 0.0} for file in ("b", "a", "c")]
    assert [image["file"] for image in select_worst(images)] == ["a", "b", "c"]
