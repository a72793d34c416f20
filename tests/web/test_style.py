"""The colours of the page's own style have enough contrast."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import cliptrase_d2.web

STYLE = (Path(cliptrase_d2.web.__file__).parent / "page.css").read_text(encoding="utf-8")


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2."""
    digits = colour.lstrip("#")
    digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
    shares = [int(digits[index : index + 2], 16) / 255 for index in (0, 2, 4)]
    linear = [share / 12.92 if share <= 0.03928 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    darker, lighter = sorted(map(luminance, (first, second)))
    return (lighter + 0.05) / (darker + 0.05)


def find_pairs() -> list[tuple[str, str]]:
    """Text and background of every rule that sets both, and the fill and the halo of names in pictures."""
    pairs = []
    for rule in re.findall(r"{([^{}]*)}", STYLE):
        colours = dict(re.findall(r"(?:^|[;\s])(color|background|fill|stroke): (#\w+)", rule))
        for text, ground in (("color", "background"), ("fill", "stroke")):
            if text in colours and ground in colours:
                pairs.append((colours[text], colours[ground]))
    return pairs


def test_known_contrasts() -> None:
    assert contrast("#000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#fff") == pytest.approx(4.48, abs=0.01)


def test_texts_have_a_contrast_of_at_least_4_5() -> None:
    pairs = find_pairs()
    assert len(pairs) == 4  # notes, notes in the dark, names in pictures and under the pointer
    assert min(contrast(*pair) for pair in pairs) >= 4.5
