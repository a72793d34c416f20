"""The offer of a model that has seen photographs, and the announcement of its download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio", reason="Gradio is not installed")

import gradio

from cliptrase_d2.web.examples import draw_examples
from cliptrase_d2.web.models import Models
from cliptrase_d2.web.page import _Page, show_download
from cliptrase_d2.web.service import SegmentationService
from tests.web.conftest import MAX_PIXELS


def build(folder: Path, *models: str) -> Any:
    with gradio.Blocks():
        return _Page(SegmentationService(Models(models), MAX_PIXELS), draw_examples(folder))


def test_an_upload_clears_the_words_and_offers_a_model_with_its_size(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Models, "get_download_size", lambda *_: 598.4)
    page = build(tmp_path, "emoji", "ViT-B-16")
    update = page.start_photo("emoji", "emoji")
    assert update[page.classes] == update[page.background] == update[page.ready] == ""
    assert "Name the classes" in update[page.sides[0].result]
    assert update[page.offer]["visible"]
    assert "598 MB" in update[page.warning]
    assert update[page.accept]["value"] == "Use ViT-B-16 (598 MB download)"
    accepted = page.use_photo_model()
    assert [accepted[side.model] for side in page.sides] == ["ViT-B-16"] * 2
    assert not accepted[page.offer]["visible"]


def test_a_model_on_this_machine_is_chosen_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Models, "get_download_size", lambda *_: 0)
    page = build(tmp_path, "emoji", "ViT-B-16")
    update = page.start_photo("emoji", "emoji")
    assert update[page.sides[0].model] == "ViT-B-16"
    assert not update[page.offer]["visible"]
    assert page.sides[0].model not in page.start_photo("ViT-B-16", "emoji")  # the visitor's own choice


def test_without_such_a_model_the_command_is_named(tmp_path: Path) -> None:
    page = build(tmp_path, "emoji")
    update = page.start_photo("emoji", "emoji")
    assert "cliptrase web --models ViT-B-16" in update[page.warning]
    assert not update[page.accept]["visible"]


def test_a_download_is_shown_with_its_progress(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    shown: list[tuple[float, str]] = []
    monkeypatch.setattr("cliptrase_d2.web.page._PROGRESS", lambda *report: shown.append(report))
    listener = show_download("Downloading.")
    listener(150_000_000, 600_000_000)
    assert shown == [(0.0, "Downloading. 0 MB"), (0.25, "Downloading. 150 MB of 600 MB")]
    assert capsys.readouterr().out == "Downloading.\n"
