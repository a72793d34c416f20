"""The table of docs/methods.md is that of ``published.csv``."""

from __future__ import annotations

from pathlib import Path

from cliptrase_d2.methods import METHOD_CLASSES
from cliptrase_d2.methods.published import BENCHMARKS, read_published_methods

PAGE = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")


def _read_rows(header: str) -> list[list[str]]:
    table = PAGE.split(header)[1].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def test_numbers() -> None:
    expected = [
        [
            *(f"`{row.method}`", row.venue, f"[{row.code}](https://github.com/{row.code})", row.licence),
            *(f"{row.mean_iou[key]:.1f}" if key in row.mean_iou else "" for key in BENCHMARKS),
        ]
        for row in read_published_methods().values()
    ]
    assert _read_rows("| Method | Venue |") == expected


def test_settings_and_sources() -> None:
    expected = [[f"`{row.method}`", row.settings, row.source] for row in read_published_methods().values()]
    assert _read_rows("| Method | Settings |") == expected


def test_every_method_is_described() -> None:
    for name in read_published_methods():
        kind = METHOD_CLASSES[name]
        assert f".. autoclass:: {kind.__module__}.{kind.__qualname__}\n" in PAGE
