"""The table of docs/models.md: its models, numbers and agreement with the page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.clip.tiny import tiny_clip
from tests.command_line import ROOT
from tools import make_model_table as tool

PAGE = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def rows() -> dict[str, tool.Row]:
    accuracies = {("ViT-B-16", "openai"): 68.34, ("ViT-B-16-quickgelu", "metaclip_400m"): 70.8}
    return {name: tool.describe(name, model, accuracies) for name, model in tool.find_supported().items()}


def test_page_names_every_model_and_its_size(rows: dict[str, tool.Row]) -> None:
    assert {"ViT-B-16", "ViT-L-14-336", "ViT-e-14"} <= set(rows)
    assert not [name for name in rows if name.startswith(("RN", "EVA", "coca")) or "SigLIP" in name or "CLIPA" in name]
    for name, row in rows.items():
        if name.startswith(("tiny", "tinier")):  # which other tests register
            continue
        if row.accuracies:
            cells = " *\\| *".join(tool.format_row(row, [])[:5])
            assert re.search(rf"^\| *{cells} *\|", PAGE, re.MULTILINE), name
        else:
            assert f"`{name}`" in PAGE


def test_accuracy_is_that_of_either_name_of_the_same_weights(rows: dict[str, tool.Row]) -> None:
    accuracies = rows["ViT-B-16"].accuracies
    assert (accuracies["openai"], accuracies["metaclip_400m"], accuracies["dfn2b"]) == (68.34, 70.8, None)
    assert list(accuracies)[:2] == ["metaclip_400m", "openai"], "the best first"


def test_cells_of_a_model() -> None:
    row = tool.Row("ViT-X", 428.4, 14, 224, {"good": 75.54, "weak": 59.9, "unknown": None})
    cells = tool.format_row(row, [4.52, None])
    assert cells == ["ViT-X", "428 M", "1.7 GB", "14", "224", "4.5", "n/m", "`good` 75.5, `unknown` -"]


def test_accuracies_are_percent(tmp_path: Path) -> None:
    (tmp_path / "results.csv").write_text("name,pretrained,ImageNet 1k\nViT-B-16,openai,0.6834\n")
    assert tool.read_accuracies(tmp_path / "results.csv") == {("ViT-B-16", "openai"): pytest.approx(68.34)}


def test_time_is_relative_to_the_reference() -> None:
    model = tiny_clip()
    assert all(ratio > 0 for ratio in tool.time_towers(model, model, [32, 64], repeats=1))
