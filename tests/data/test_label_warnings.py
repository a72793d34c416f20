import pytest

from cliptrase_d2.data.label_warnings import find_label_warnings
from cliptrase_d2.data.labels import LabelRule, reduce_zero_label


@pytest.mark.parametrize(
    ("pixels", "ignored", "words"),
    [
        ([5, 5, 5], 15, None),
        ([5, 5, 5], 16, "51.6% "),
        ([0, 5, 0], 0, "single class"),
        ([0, 0, 0], 9, None),  # no labels at all
        ([0, 5, 5], 0, "reduce_zero_label"),
        ([0, 5, 0, 5, 0], 0, None),  # a small sample
    ],
)
def test_counts_of_pixels(pixels: list[int], ignored: int, words: str | None) -> None:
    warnings = find_label_warnings(pixels, ignored, LabelRule(len(pixels)))
    assert len(warnings) == (words is not None)
    assert words is None or words in warnings[0]


def test_with_a_label_map_the_first_class_may_be_missing() -> None:
    assert find_label_warnings([0, 5, 5], 0, LabelRule(3, 255, reduce_zero_label(3, 255))) == []
