from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cliptrase_d2.d2 import DatasetCatalog, MetadataCatalog
from cliptrase_d2.data import builtin
from cliptrase_d2.data.builtin import register_builtin
from cliptrase_d2.data.emoji_scenes.files import write_scenes
from cliptrase_d2.data.emoji_scenes.names import CLASSES
from cliptrase_d2.data.loader import list_records
from cliptrase_d2.data.register import register_dataset
from cliptrase_d2.utils.errors import InputError

NAMES = ("emoji_scenes", "emoji_scenes_seen", "emoji_scenes_unseen_combination", "emoji_scenes_held_out")


@pytest.fixture(autouse=True)
def _catalogs_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    _forget()
    yield
    _forget()


def _forget() -> None:
    for catalog in (DatasetCatalog, MetadataCatalog):
        for name in set(NAMES) & set(catalog.list()):
            catalog.remove(name)


@pytest.fixture
def no_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the package is installed without the repository around it."""
    monkeypatch.setattr(builtin, "_CLONE", tmp_path / "no_clone")
    monkeypatch.chdir(tmp_path)


def test_clone_brings_its_scenes_to_every_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    register_builtin()
    assert [len(DatasetCatalog.get(name)) for name in NAMES] == [96, 48, 24, 24]
    metadata = MetadataCatalog.get("emoji_scenes_held_out")
    assert metadata.stuff_classes == list(CLASSES)
    assert set(metadata.class_groups) == {"things", "stuff", "seen_things", "held_out_things"}


def test_again_is_no_harm() -> None:
    register_builtin()
    before = DatasetCatalog.get("emoji_scenes")
    register_builtin()
    assert DatasetCatalog.get("emoji_scenes") == before


@pytest.mark.parametrize("is_default", [False, True])
def test_root_is_that_of_detectron2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_default: bool) -> None:
    write_scenes(tmp_path / "datasets" / "emoji_scenes", {"seen": 1}, size=32)
    if is_default:
        monkeypatch.chdir(tmp_path)
    else:
        monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    register_builtin()
    (record,) = DatasetCatalog.get("emoji_scenes")
    assert Path(record["file_name"]).resolve().is_relative_to(tmp_path.resolve())


def test_root_without_the_scenes_leaves_those_of_the_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    register_builtin()
    assert len(DatasetCatalog.get("emoji_scenes")) == 96


@pytest.mark.usefixtures("no_clone")
@pytest.mark.parametrize("name", NAMES)
def test_missing_scenes_are_said_when_they_are_asked_for(name: str) -> None:
    register_builtin()
    with pytest.raises(InputError, match=r"no such folder.*Run 'python datasets/prepare_emoji_scenes\.py "):
        DatasetCatalog.get(name)


@pytest.mark.usefixtures("no_clone")
@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_missing_scenes_end_an_evaluation(on_error: str) -> None:
    register_builtin()
    with pytest.raises(InputError, match=r"prepare_emoji_scenes\.py .*, or set DETECTRON2_DATASETS to the folder"):
        list_records("emoji_scenes", on_error)


def test_name_that_the_user_gave_stays_the_users(tmp_path: Path) -> None:
    register_dataset("emoji_scenes", tmp_path, ["sky"])
    register_builtin()
    assert MetadataCatalog.get("emoji_scenes").stuff_classes == ["sky"]
