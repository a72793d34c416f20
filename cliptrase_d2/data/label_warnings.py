"""Warnings about labels that can be read but often are misread, from the pixels of each class."""

from __future__ import annotations

from collections.abc import Sequence

from cliptrase_d2.data.labels import INDEX, LabelRule

_MANY_IGNORED = 0.5  # share of pixels; in the benchmarks, at most a quarter is ignored


def find_label_warnings(pixels: Sequence[int], ignored: int, rule: LabelRule) -> list[str]:
    """Return one line for each fact that often means misread labels.

    Args:
        pixels: [C] labelled pixels of each class.
        ignored: number of labelled pixels that are not scored.
        rule: of the data set.
    """
    occurring, share = sum(map(bool, pixels)), ignored / max(1, ignored + sum(pixels))
    warnings = []
    if occurring == 1:
        fix = "If ignored values are a class, add them to label_map, as in {0: 0, 255: 1}."
        warnings.append(f"the labels have a single class, so scores mean little. {fix}")
    elif occurring and share > _MANY_IGNORED:
        warnings.append(f"{share:.1%} of the labelled pixels are not scored. Check label_map and ignore_label.")
    if rule.coding == INDEX and rule.label_map is None and occurring > 1 and not pixels[0] and pixels[-1]:
        fix = "If the files count classes from 1, set reduce_zero_label: true."
        warnings.append(f"class 0 does not occur, but the last class does. {fix}")
    return warnings
