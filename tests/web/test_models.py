"""Models and methods of the page: loading, lending, and refused configurations."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from cliptrase_d2.clip import download
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vocabulary import Vocabulary
from cliptrase_d2.web import models as module
from cliptrase_d2.web.methods import METHODS, group_methods, name_method
from cliptrase_d2.web.models import Models
from tests.clip.tiny import register_tiny


def configuration(folder: Path, name: str, *lines: str) -> str:
    """Write a configuration of the tiny random model."""
    register_tiny(folder)
    text = ["MODEL:", "  CLIP: {NAME: tiny-vit, PRETRAINED: '', TEMPLATES: simple}", *lines]
    (folder / name).write_text("\n".join([*text, ""]))
    return str(folder / name)


def test_no_oracle_is_offered() -> None:
    assert {"cliptrase", "clip", "maskclip", "sclip+clusters"} <= set(METHODS)
    assert not [name for name in METHODS if "oracle" in name]


def test_every_method_has_one_group_and_a_name_of_its_own() -> None:
    groups = group_methods()
    rows = [row for rows in groups.values() for row in rows]
    assert sorted(method for method, _ in rows) == sorted(METHODS)
    assert len({name for _, name in rows}) == len(rows)
    assert not [name for _, name in rows if "_" in name or "+" in name]
    masks, pixels, ablations = groups.values()
    assert masks[0] == ("cliptrase", "CLIPtrase")
    assert ("sclip+clusters", "SCLIP with masks") in masks
    assert ("gem", name_method("gem")) in pixels
    assert ("cosine+clusters", "Cosine with masks") in ablations


def test_a_model_has_a_title_and_the_size_of_its_download(monkeypatch: pytest.MonkeyPatch) -> None:
    models = Models(["emoji", "ViT-B-16"])
    monkeypatch.setattr(module, "describe_download", lambda name, tag: "Downloading." if name == "ViT-B-16" else "")
    assert [models.get_title(name) for name in models.names] == ["Emoji CLIP (drawings)", "ViT-B-16 (photographs)"]
    assert models.get_download_size("emoji") == 0
    assert 590 < models.get_download_size("ViT-B-16") < 610  # 150 million parameters of four bytes


def test_a_method_has_the_settings_of_the_evaluation(models: Models) -> None:
    with models.lend("emoji", "clip") as model:
        assert (model.core.settings.method, model.core.settings.clustering) == ("clip", "none")
    with models.lend("emoji", "cliptrase") as model:
        assert model.core.settings == model.settings
        assert model.core.text_encoder.cache_dir is None  # visitors could fill the disk with words


def test_unknown_models_and_methods_are_refused(models: Models) -> None:
    for choice in (("../emoji.yaml", "clip"), ("emoji", "cosine_oracle")):
        with pytest.raises(InputError, match=rf"{choice[0]}|{choice[1]}"), models.lend(*choice):
            pass


def test_the_latest_models_stay_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = [configuration(tmp_path, f"{index}.yaml") for index in range(3)]
    offered, loads = Models(files), []
    names = offered.names
    build = module.Segmenter.from_config
    monkeypatch.setattr(module.Segmenter, "from_config", lambda *args: loads.append(args[0]) or build(*args))
    for index in (0, 1, 0, 2, 0, 1):  # the third replaces the second
        with offered.lend(names[index], "clip"):
            pass
    assert loads == [files[index] for index in (0, 1, 2, 1)]


def test_random_weights_are_noted_on_the_page_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Models([configuration(tmp_path, "random.yaml")]).lend("random", "clip") as model:
        assert model.notes == ("RANDOM WEIGHTS: the output of this model is meaningless.",)
    assert "RANDOM WEIGHTS" in caplog.text


def test_untrained_words_are_noted_on_the_page_and_not_logged(models: Models, caplog: pytest.LogCaptureFixture) -> None:
    words = Vocabulary.parse(["grass", "saxophone"])
    with models.lend("emoji", "clip") as model:
        first, again = model.read(words), model.read(words)
    assert "'saxophone'" in first.notes[0]
    assert again is first
    assert not caplog.records


def test_a_download_is_announced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    messages: list[str] = []
    file = configuration(tmp_path, "a.yaml")
    monkeypatch.setattr(module, "describe_download", lambda name, tag: f"{name} {tag!r}")
    with Models([file], notify=messages.append).lend("a", "clip"):
        assert messages == ["tiny-vit ''"]


def test_the_listener_of_an_announcement_follows_the_download(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    reports: list[tuple[int, int]] = []
    models = Models([configuration(tmp_path, "a.yaml")], notify=lambda _: lambda *report: reports.append(report))
    build = module.Segmenter.from_config

    def fetch_and_build(*arguments: object) -> object:
        listener = download._listener.get()
        assert listener is not None
        listener(3, 4)
        return build(*arguments)

    monkeypatch.setattr(module, "describe_download", lambda *_: "Downloading.")
    monkeypatch.setattr(module.Segmenter, "from_config", fetch_and_build)
    with models.lend("a", "clip"):
        assert reports == [(3, 4)]


def test_a_failure_is_repeated_for_a_short_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    messages, attempts, now = [], [], [100.0]

    def fail(*_: object) -> None:
        attempts.append(now[0])
        raise InputError("pretrained", "no connection", "Connect.")

    models = Models([configuration(tmp_path, "a.yaml")], notify=messages.append)
    monkeypatch.setattr(module, "describe_download", lambda *_: "Downloading.")
    monkeypatch.setattr(module.Segmenter, "from_config", fail)
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    for now[0] in (100.0, 101.0, 109.9, 110.0):  # the page loads a model for several of its parts
        with pytest.raises(InputError, match=r"pretrained: no connection\. Connect\."), models.lend("a", "clip"):
            pass
    assert attempts == [100.0, 110.0]
    assert messages == ["Downloading."] * 2  # and not four


@pytest.mark.parametrize(
    ("names", "changes", "message"),
    [
        (["ViT-Q"], [], "--models.*ViT-Q"),
        (["emoji", "emoji"], [], "--models.*emoji"),
        (["missing.yaml"], [], "missing.yaml"),
        (["emoji"], ["MODEL.CLIPS", "1"], "MODEL.CLIPS"),
    ],
)
def test_faulty_models_are_refused_at_the_start(names: list[str], changes: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Models(names, changes)


@pytest.mark.parametrize(
    ("line", "setting"),
    [
        ("TEST: {PROTOCOL: center_crop}", "TEST.PROTOCOL center_crop"),
        ("  CLIPTRASE: {CLUSTERING: none}", "CLUSTERING none"),
        ("  META_ARCHITECTURE: SAN", "META_ARCHITECTURE SAN"),
    ],
)
def test_configurations_that_the_page_cannot_show_are_refused(tmp_path: Path, line: str, setting: str) -> None:
    file = configuration(tmp_path, "own.yaml", line)
    with pytest.raises(InputError, match=setting):
        Models([file])
    if "PROTOCOL" in setting:
        assert Models([file], ["TEST.PROTOCOL", "whole"]).names == ("own",)  # changes of every configuration


def test_one_caller_at_a_time_has_a_model(models: Models) -> None:
    order: list[str] = []

    def other() -> None:
        with models.lend("emoji", "cliptrase"):
            order.append("other")

    with models.lend("emoji", "clip") as model:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(0.2)
        assert model.core.settings.clustering == "none"  # the other caller waits
        order.append("first")
    thread.join()
    assert order == ["first", "other"]
