import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cliptrase_d2.data.labels import (
    ADE20K_FULL,
    COLORS,
    NO_LABEL,
    LabelRule,
    pack_colors,
    reduce_zero_label,
    unpack_color,
)
from cliptrase_d2.utils.errors import InputError


@pytest.mark.parametrize(
    ("rule", "raw", "indices"),
    [
        (LabelRule(3), [0, 2, 255, 1], [0, 2, 255, 1]),
        (LabelRule(847, 65535), [846, 255, 65535], [846, 255, 65535]),
        (LabelRule(3, -1), [-1, 0], [-1, 0]),
        (LabelRule(3, 255, {0: 255, 7: 0, 300: 2, -4: 1}), [0, 7, 300, -4, 255], [255, 0, 2, 1, 255]),
        (LabelRule(3, 255, {0: 0, 255: 2}), [0, 255], [0, 2]),  # the ignore value is mapped to a class
        (LabelRule(3), [NO_LABEL, 1], [255, 1]),
        (LabelRule(3, 255, {4: 1}), [NO_LABEL, 4], [255, 1]),
        (LabelRule(3, 255, reduce_zero_label(3, 255)), [0, 1, 3, 255], [255, 0, 2, 255]),
    ],
)
def test_raw_values_become_class_indices(rule: LabelRule, raw: list[int], indices: list[int]) -> None:
    rule.check("rule")
    labels = rule.apply(np.array([raw], dtype=np.int64), "a.png")
    assert labels.dtype == np.int64
    assert labels.tolist() == [indices]


@pytest.mark.parametrize(
    ("rule", "raw", "match"),
    [
        (LabelRule(3), [3, 0, 100, 255], r"3, 100\. Allowed: 0\.\.2 .*255.*label_map"),
        (LabelRule(3), [-1], r"values -1\."),
        (LabelRule(2), list(range(50)), r"values 2, 3, 4, 5, 6, \.\.\."),  # not all of them are listed
        (
            LabelRule(3, 255, {1: 0, 2: 1}),
            [0, 1, 9, 255],
            r"values 0, 9, in 50\.0% of its pixels\. Allowed: 1, 2, 255\.",
        ),
    ],
)
def test_unknown_values_are_listed_with_the_known_ones(rule: LabelRule, raw: list[int], match: str) -> None:
    with pytest.raises(InputError, match=rf"^dir/a\.png: .*{match}"):
        rule.apply(np.array([raw]), "dir/a.png")


@pytest.mark.parametrize(
    ("rule", "match"),
    [
        (LabelRule(847, 255), r"ignore_label 255.*0\.\.846"),
        (LabelRule(3, 2**40), f"ignore_label {2**40}"),  # no label file can hold it
        (LabelRule(3, 255, {2**40: 0}), f"label_map entry {2**40}: 0"),
        (LabelRule(3, 255, {-(2**40): 0}), f"label_map entry -{2**40}: 0"),
    ],
)
def test_invalid_rules_are_rejected(rule: LabelRule, match: str) -> None:
    with pytest.raises(InputError, match=rf"^rule: {match}"):
        rule.check("rule")


@given(
    raw=arrays(np.int32, (3, 4), elements=st.integers(-2, 9) | st.sampled_from([255, 65535, -(2**31), 2**31 - 1])),
    label_map=st.none()
    | st.dictionaries(st.integers(-2, 9) | st.just(255), st.sampled_from([0, 1, 2, 255]), min_size=1),
)
def test_all_values_are_mapped_or_the_file_is_rejected(raw: np.ndarray, label_map: dict[int, int] | None) -> None:
    rule = LabelRule(3, 255, label_map)
    rule.check("rule")
    table = {255: 255, **(label_map if label_map is not None else {0: 0, 1: 1, 2: 2})}
    if set(raw.ravel().tolist()) <= set(table):
        assert rule.apply(raw, "file").tolist() == [[table[value] for value in row] for row in raw.tolist()]
    else:
        with pytest.raises(InputError, match="label values"):
            rule.apply(raw, "file")


def test_the_ignore_label_is_a_raw_value_of_indices_alone() -> None:
    blue = int(pack_colors(np.array([0, 0, 255], dtype=np.uint8)))
    assert blue == 255
    assert unpack_color(blue) == (0, 0, 255)
    with pytest.raises(InputError, match=r"\(0, 0, 255\)"):
        LabelRule(3, 255, {0: 1}, coding=COLORS).apply(np.array([[255]]), "a.png")
    with pytest.raises(InputError, match="255"):
        LabelRule(3, 255, coding=ADE20K_FULL).apply(np.array([[255]]), "a.png")


@pytest.mark.parametrize(
    ("rule", "raw"),
    [
        (LabelRule(3), [0, 1, 2, 255]),
        (LabelRule(2, 255, {0: 255, 7: 1, 9: 0}), [9, 7, 255]),
        (LabelRule(2, 255, {255: 1, 9: 0, 3: 255}), [9, 255, 3]),  # 255 is a class
        (LabelRule(2, 255, {5: 1, 9: 0}, coding=COLORS), [9, 5, 0]),  # no colour is ignored: void is black
    ],
)
def test_inverse_of_the_label_map(rule: LabelRule, raw: list[int]) -> None:
    assert rule.invert("rule") == raw


@pytest.mark.parametrize("label_map", [{1: 0, 2: 0, 3: 1}, {1: 0}])
def test_label_maps_without_an_inverse_are_rejected(label_map: dict[int, int]) -> None:
    with pytest.raises(InputError, match=r"class [01]"):
        LabelRule(2, 255, label_map).invert("rule")
