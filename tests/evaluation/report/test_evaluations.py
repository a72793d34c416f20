import numpy as np
import pytest

from cliptrase_d2.evaluation.report.evaluations import find_worst_classes, make_heat_map

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


def test_heat_map_by_hand() -> None:
    heat_map = make_heat_map(CONFUSION, ["a", "b", "c", "d"])
    assert (heat_map.rows, heat_map.columns) == (["a", "b", "d"], ["a", "b", "d"])  # "c" is absent
    assert heat_map.cells == [(0, 0, 75.0), (0, 1, 25.0), (1, 0, 50.0), (1, 1, 50.0), (2, 0, 75.0), (2, 1, 25.0)]
    assert not heat_map.is_part


def test_heat_map_of_many_classes_names_those_with_the_most_wrong_pixels() -> None:
    heat_map = make_heat_map(CONFUSION, ["a", "b", "c", "d"], limit=2)  # wrong pixels: 6, 4, 0, 4
    assert heat_map.rows == ["a", "b", "other classes"]
    assert heat_map.columns == ["a", "b"]  # no pixel is predicted as another class
    assert (heat_map.classes, heat_map.is_part) == (2, True)
    assert heat_map.cells[-2:] == [(2, 0, 75.0), (2, 1, 25.0)]


def test_heat_map_has_columns_for_absent_classes_and_unknown_pixels() -> None:
    confusion = np.array([[6, 1, 1], [0, 0, 0]])  # class 1 is absent; the last column is unknown
    heat_map = make_heat_map(confusion, ["a", "b"])
    assert (heat_map.rows, heat_map.columns) == (["a"], ["a", "other classes", "unknown"])
    assert heat_map.cells == [(0, 0, 75.0), (0, 1, 12.5), (0, 2, 12.5)]
    assert not heat_map.is_part


def test_heat_map_leaves_out_small_cells() -> None:
    heat_map = make_heat_map(np.array([[996, 4], [0, 1]]), ["a", "b"])
    assert [cell[:2] for cell in heat_map.cells] == [(0, 0), (1, 1)]
