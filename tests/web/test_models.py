"""Which models and methods the page has, and what it takes to lend them."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vocabulary import Vocabulary
from cliptrase_d2.web import models as module
from cliptrase_d2.web.models import METHODS, Models
from tests.clip.tiny import register_tiny


def configuration(folder: Path, name: str, *lines: str) -> str:
    """A configuration of the tiny random model."""
    register_tiny(folder)
    text = ["MODEL:", "  CLIP: {NAME: tiny-vit, PRETRAINED: '', TEMPLATES: simple}", *lines]
    (folder / name).write_text("\n".join([*text, ""]))
    return str(folder / name)


def test_no_oracle_is_offered() -> None:
    assert {"cliptrase", "clip", "maskclip", "sclip+clusters"} <= set(METHODS)
    assert not [name for name in METHODS if "oracle" in name]


def test_a_method_is_that_of_the_evaluation(models: Models) -> None:
    with models.lent("emoji", "clip") as model:
        assert model.core.method.clustering == "none"
        assert model.core.tower.attention is module.ATTENTIONS["qk"]
    with models.lent("emoji", "cliptrase") as model:
        assert model.core.method == model.settings
        assert model.core.tower.attention is module.ATTENTIONS["qq_kk_vv"]


def test_only_what_is_offered_is_lent(models: Models) -> None:
    for choice in (("../emoji.yaml", "clip"), ("emoji", "cosine_oracle")):
        with pytest.raises(InputError, match="Choose one of these"), models.lent(*choice):
            pass


def test_the_models_used_last_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = [configuration(tmp_path, f"{index}.yaml") for index in range(3)]
    offered, loads = Models(files), []
    names = offered.names
    build = module.Segmenter.from_config
    monkeypatch.setattr(module.Segmenter, "from_config", lambda *given: loads.append(given[0]) or build(*given))
    for index in (0, 1, 0, 2, 0, 1):  # the third makes the second leave
        with offered.lent(names[index], "clip"):
            pass
    assert loads == [files[index] for index in (0, 1, 2, 1)]


def test_random_weights_are_called_random_on_the_page_and_on_the_terminal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Models([configuration(tmp_path, "random.yaml")]).lent("random", "clip") as model:
        assert model.notes == ("RANDOM WEIGHTS: whatever this model says about an image means nothing.",)
    assert "RANDOM WEIGHTS" in caplog.text


def test_words_that_a_model_never_saw_are_noted_on_the_page_alone(
    models: Models, caplog: pytest.LogCaptureFixture
) -> None:
    words = Vocabulary.parse(["grass", "saxophone"])
    with models.lent("emoji", "clip") as model:
        first, again = model.read(words), model.read(words)
    assert "'saxophone'" in first.notes[0]
    assert again is first
    assert not caplog.records


def test_nothing_is_written_for_a_visitors_words(models: Models) -> None:
    with models.lent("emoji", "clip") as model:
        assert model.core.text_encoder.cache_dir is None


def test_what_will_be_fetched_is_told_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told: list[str] = []
    file = configuration(tmp_path, "a.yaml")
    monkeypatch.setattr(module, "describe_download", lambda name, tag: f"{name} {tag!r}")
    with Models([file], notify=told.append).lent("a", "clip"):
        assert told == ["tiny-vit ''"]


@pytest.mark.parametrize(
    ("names", "changes", "message"),
    [
        (["ViT-Q"], [], "--models: 'ViT-Q'"),
        (["emoji", "emoji"], [], "two named 'emoji'"),
        (["missing.yaml"], [], "missing.yaml"),
        (["emoji"], ["MODEL.CLIPS", "1"], "MODEL.CLIPS"),
    ],
)
def test_what_cannot_be_served_is_said_at_the_start(names: list[str], changes: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Models(names, changes)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("TEST: {PROTOCOL: center_crop}", "TEST.PROTOCOL center_crop"),
        ("  CLIPTRASE: {CLUSTERING: none}", "CLUSTERING none"),
        ("  META_ARCHITECTURE: SAN", "META_ARCHITECTURE SAN"),
    ],
)
def test_what_the_page_cannot_show_is_refused(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Models([configuration(tmp_path, "own.yaml", line)])


def test_options_change_every_configuration(tmp_path: Path) -> None:
    file = configuration(tmp_path, "crop.yaml", "TEST: {PROTOCOL: center_crop}")
    assert Models([file], ["TEST.PROTOCOL", "whole"]).names == ("crop",)


def test_one_caller_at_a_time_has_a_model(models: Models) -> None:
    order: list[str] = []

    def other() -> None:
        with models.lent("emoji", "cliptrase"):
            order.append("other")

    with models.lent("emoji", "clip") as model:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(0.2)
        assert model.core.method.clustering == "none"  # the other's method is not set yet
        order.append("first")
    thread.join()
    assert order == ["first", "other"]
