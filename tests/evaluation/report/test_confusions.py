from __future__ import annotations

import numpy as np
import pytest

from cliptrase_d2.evaluation.report.confusions import worst_confusions

# Rows truth, columns prediction; class 2 occurs nowhere, class 3 is always taken for another.
CONFUSION = np.array([[6, 2, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [3, 1, 0, 0]])


def test_worst_classes_come_first_and_absent_ones_not_at_all() -> None:
    found = worst_confusions(CONFUSION)
    assert [item.index for item in found] == [3, 1, 0]
    assert [item.iou for item in found] == pytest.approx([0, 100 / 5, 100 * 6 / 12])


def test_shares_are_of_the_pixels_of_a_class() -> None:
    item = worst_confusions(CONFUSION)[0]
    assert (item.correct, item.taken_for) == (0, [(0, 75.0), (1, 25.0)])
    assert (item.wrongly_named, item.mostly) == (0, None)


def test_what_a_name_was_wrongly_given_to() -> None:
    item = worst_confusions(CONFUSION)[2]
    assert item.wrongly_named == pytest.approx(100 * 4 / 10)
    assert item.mostly == 3


def test_only_as_many_as_are_asked_for() -> None:
    (item,) = worst_confusions(CONFUSION, count=1, others=1)
    assert item.taken_for == [(0, 75.0)]


def test_nothing_was_scored() -> None:
    assert worst_confusions(np.zeros((3, 3), dtype=np.int64)) == []
