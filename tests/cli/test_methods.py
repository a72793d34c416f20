"""`cliptrase methods`: the table of the methods and their descriptions."""

from __future__ import annotations

import pytest

from cliptrase_d2.data.benchmarks import BENCHMARKS
from cliptrase_d2.methods import METHOD_CLASSES
from cliptrase_d2.methods import published as published_methods
from cliptrase_d2.methods.published import read_measured_methods, read_published_methods
from tests.cli.commands import fail, run

LICENCES = {"MIT", "Apache-2.0", "S-Lab 1.0", "none"}


def test_every_row_belongs_to_a_method_and_has_plausible_numbers() -> None:
    facts = read_published_methods()
    assert facts.keys() <= METHOD_CLASSES.keys()
    assert set(published_methods.BENCHMARKS) <= BENCHMARKS.keys()
    for method in facts.values():
        assert method.licence in LICENCES
        assert all((method.venue, method.code, method.settings, method.source))
        assert len(method.mean_iou) >= 6 or "not public" in method.source
        assert all(0 < number < 100 for number in method.mean_iou.values())


def test_the_table_lists_all_methods(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("methods") == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 160
    first, second = (index for index, line in enumerate(lines) if line.startswith("method "))
    published, measured = lines[first + 2 :], lines[second + 2 :]
    assert [line.split()[0] for line in published[: published.index("")]] == list(read_published_methods())
    assert [line.split()[0] for line in measured] == list(METHOD_CLASSES)
    (row, numbers) = (line for line in lines if line.startswith("sclip "))
    assert "59.6" in row
    assert "ECCV 2024" in row
    assert f"{read_measured_methods()['sclip'].emoji_miou:.1f}" in numbers


def test_measured_methods_have_plausible_numbers() -> None:
    measured = read_measured_methods()
    assert measured.keys() <= read_published_methods().keys()
    for method in measured.values():
        numbers = method.emoji_pacc, method.emoji_miou, method.emoji_seed2_slide_miou
        assert all(number is None or 0 < number < 100 for number in numbers)
        assert method.cpu_ratio > 0.8
        assert method.cpu_ms > 0


@pytest.mark.parametrize("name", METHOD_CLASSES)
def test_a_method_is_described(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert run("methods", name) == 0
    text = capsys.readouterr().out
    assert METHOD_CLASSES[name].source in text
    facts = read_published_methods().get(name)
    assert ("Published: " in text) == (facts is not None)
    assert facts is None or facts.extra_models in text
    measured = read_measured_methods().get(name)
    assert ("Time with ViT-B/16" in text) == (measured is not None)
    assert ("Emoji CLIP on the packaged" in text) == (measured is not None and measured.emoji_pacc is not None)


def test_models_besides_clip_are_named_with_their_size(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("methods", "proxyclip") == 0
    assert "DINO ViT-B/8 (343 MB)" in capsys.readouterr().out


def test_an_unknown_method_is_an_error() -> None:
    assert "sclip" in fail("methods", "sclop")


def test_a_composition_is_described_by_its_parts_and_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("methods", "naclip+pamr+sam@slide") == 0
    text = capsys.readouterr().out
    assert text.startswith("naclip+sam+pamr@slide: ")
    for part in (METHOD_CLASSES["naclip"].source, "MODEL.MASKS.SOURCE sam", "TEST.PROTOCOL slide", "refined by PAMR"):
        assert part in text
    assert run("methods", "cliptrase_scr") == 0
    assert "MODEL.CLIPTRASE.CLUSTERING none" in capsys.readouterr().out


def test_an_impossible_composition_is_an_error_with_the_reason() -> None:
    error = fail("methods", "cliptrase@published")
    assert "'dbscan' with TEST.PROTOCOL 'published'" in error
    assert "'+sam'" in fail("methods", "naclip+sem")
