"""The tables of docs/methods.md are those of ``published.csv`` and ``measured.csv``."""

from __future__ import annotations

import inspect
import re

from cliptrase_d2.methods import METHOD_CLASSES
from cliptrase_d2.methods.published import BENCHMARKS, read_measured_methods, read_published_methods
from tests.docs.pages import ROOT, read_table

BASELINES = (ROOT / "docs" / "baselines.md").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")


def test_numbers() -> None:
    expected = [
        [
            *(f"`{row.method}`", row.venue, f"[{row.code}](https://github.com/{row.code})", row.licence),
            *(f"{row.mean_iou[key]:.1f}" if key in row.mean_iou else "" for key in BENCHMARKS),
        ]
        for row in read_published_methods().values()
    ]
    assert read_table(PAGE, "| Method | Venue |") == expected


def test_settings_and_sources() -> None:
    expected = [[f"`{row.method}`", row.settings, row.source] for row in read_published_methods().values()]
    assert read_table(PAGE, "| Method | Settings |") == expected


def test_measured_numbers() -> None:
    expected = [
        [
            f"`{row.method}`",
            *(
                "" if value is None else f"{value:.1f}"
                for value in (row.emoji_pacc, row.emoji_miou, row.emoji_seed2_slide_miou)
            ),
            *(f"{row.cpu_ms:.0f}", f"{row.cpu_ratio:.2f}", "" if row.gpu_ms is None else f"{row.gpu_ms:.2f}"),
        ]
        for row in read_measured_methods().values()
    ]
    assert read_table(PAGE, "| Method | pAcc |") == expected


def test_every_method_is_described() -> None:
    for name in read_published_methods():
        kind = METHOD_CLASSES[name]
        assert f".. autoclass:: {kind.__module__}.{kind.__qualname__}\n" in PAGE


def test_the_exceptions_of_options_are_complete() -> None:
    exceptions = [
        set(re.findall(r"`(\w+)`", part)) for part in re.findall(r"all but\s((?:`\w+`(?:, | and )?\s?)+)", BASELINES)
    ]
    kinds = {name: kind for name, kind in METHOD_CLASSES.items() if kind.__module__.startswith("cliptrase_d2.")}
    without_residual = {name for name, kind in kinds.items() if "residual" not in inspect.signature(kind).parameters}
    without_class_token = {name for name, kind in kinds.items() if not kind.has_class_token}
    assert exceptions == [without_residual, without_class_token]
