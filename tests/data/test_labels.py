from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cliptrase_d2.data.labels import LabelRule
from cliptrase_d2.utils.errors import InputError


def test_class_indices_pass() -> None:
    raw = np.array([[0, 2], [255, 1]], dtype=np.int32)
    indices = LabelRule(3).apply(raw, "a.png")
    assert indices.dtype == np.int64
    assert indices.tolist() == [[0, 2], [255, 1]]


def test_label_outside_the_classes_is_named_with_what_is_allowed() -> None:
    with pytest.raises(InputError) as caught:
        LabelRule(3).apply(np.array([[3, 0], [100, 255]]), "dir/a.png")
    message = str(caught.value)
    assert message.startswith("dir/a.png: the label values 3, 100.")
    assert "0..2 or the ignore label 255" in message
    assert "label_map" in message


def test_negative_label() -> None:
    with pytest.raises(InputError, match="values -1"):
        LabelRule(3).apply(np.array([[-1]]), "a.tif")
    assert LabelRule(3, ignore_label=-1).apply(np.array([[-1]]), "a.tif").tolist() == [[-1]]


def test_many_wrong_labels_are_not_all_listed() -> None:
    with pytest.raises(InputError, match=r"values 2, 3, 4, 5, 6, \.\.\."):
        LabelRule(2).apply(np.arange(50).reshape(5, 10), "a.png")


def test_mapped_values() -> None:
    rule = LabelRule(3, 255, {0: 255, 7: 0, 300: 2, -4: 1})
    assert rule.apply(np.array([[0, 7, 300], [-4, 255, 7]]), "a.png").tolist() == [[255, 0, 2], [1, 255, 0]]


def test_map_may_make_a_class_of_the_ignore_value() -> None:
    assert LabelRule(3, 255, {0: 0, 255: 2}).apply(np.array([[0, 255]]), "a.png").tolist() == [[0, 2]]


def test_value_that_the_map_does_not_name() -> None:
    with pytest.raises(InputError) as caught:
        LabelRule(3, 255, {1: 0, 2: 1}).apply(np.array([[0, 1, 9, 255]]), "a.png")
    message = str(caught.value)
    assert "a.png: the label values 0, 9, which label_map does not name" in message
    assert "(1, 2) and the ignore label 255" in message


def test_last_of_847_classes_and_ignore_beyond() -> None:
    raw = np.array([[846, 255, 65535]], dtype=np.int32)
    rule = LabelRule(847, 65535)
    rule.check("ade847")
    assert rule.apply(raw, "a.tif").tolist() == [[846, 255, 65535]]


def test_ignore_label_among_847_classes() -> None:
    with pytest.raises(InputError, match=r"outside 0\.\.846"):
        LabelRule(847, 255).check("ade847")


@given(
    raw=arrays(np.int32, (3, 4), elements=st.integers(-2, 9) | st.sampled_from([255, 65535, -(2**31), 2**31 - 1])),
    label_map=st.none()
    | st.dictionaries(st.integers(-2, 9) | st.just(255), st.sampled_from([0, 1, 2, 255]), min_size=1),
)
def test_every_value_becomes_what_the_rule_says_or_all_are_refused(
    raw: np.ndarray, label_map: dict[int, int] | None
) -> None:
    rule = LabelRule(3, 255, label_map)
    rule.check("rule")
    known = {255: 255, **(label_map if label_map is not None else {0: 0, 1: 1, 2: 2})}
    if set(raw.ravel().tolist()) <= set(known):
        assert rule.apply(raw, "file").tolist() == [[known[value] for value in row] for row in raw.tolist()]
    else:
        with pytest.raises(InputError, match="the label values"):
            rule.apply(raw, "file")


@pytest.mark.parametrize("rule", [LabelRule(3, 2**40), LabelRule(3, 255, {2**40: 0}), LabelRule(3, 255, {-(2**40): 0})])
def test_a_value_that_no_label_file_can_hold_is_refused(rule: LabelRule) -> None:
    with pytest.raises(InputError, match="whole number"):
        rule.check("rule")
