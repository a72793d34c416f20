"""`cliptrase methods`: the table of the methods and their descriptions."""

from __future__ import annotations

import pytest

from cliptrase_d2.data.benchmarks import BENCHMARKS
from cliptrase_d2.methods import METHOD_CLASSES
from cliptrase_d2.methods import published as published_methods
from cliptrase_d2.methods.published import read_published_methods
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
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table[2:]] == list(METHOD_CLASSES)
    (row,) = (line for line in table if line.startswith("sclip "))
    assert "59.6" in row
    assert "ECCV 2024" in row


@pytest.mark.parametrize("name", METHOD_CLASSES)
def test_a_method_is_described(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert run("methods", name) == 0
    text = capsys.readouterr().out
    assert METHOD_CLASSES[name].source in text
    facts = read_published_methods().get(name)
    assert ("Published: " in text) == (facts is not None)
    assert facts is None or facts.extra_models in text


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
