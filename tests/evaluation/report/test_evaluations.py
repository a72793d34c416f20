import numpy as np
import pytest

from cliptrase_d2.evaluation.report.evaluations import find_worst_classes

# Rows truth, columns prediction. Class 2 is absent; class 3 is never predicted.
CONFUSION = np.array([[6, 2, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [3, 1, 0, 0]])


def test_worst_classes_are_first_and_absent_classes_left_out() -> None:
    worst = find_worst_classes(CONFUSION)
    assert [item.index for item in worst] == [3, 1, 0]
    assert [item.iou for item in worst] == pytest.approx([0, 100 / 5, 100 * 6 / 12])


def test_confusions_by_hand() -> None:
    third, _, first = find_worst_classes(CONFUSION)
    assert (third.correct, third.taken_for) == (0, [(0, 75.0), (1, 25.0)])
    assert (third.wrongly_named, third.mostly) == (0, None)
    assert first.wrongly_named == pytest.approx(100 * 4 / 10)
    assert first.mostly == 3


def test_number_of_classes_and_confusions_is_limited() -> None:
    (item,) = find_worst_classes(CONFUSION, count=1, others=1)
    assert item.taken_for == [(0, 75.0)]
