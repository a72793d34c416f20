import logging
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
def _restore_catalogs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    _unregister()
    yield
    _unregister()


def _unregister() -> None:
    for catalog in (DatasetCatalog, MetadataCatalog):
        for name in set(NAMES) & set(catalog.list()):
            catalog.remove(name)


@pytest.mark.parametrize("has_root", [False, True])
def test_scenes_of_the_clone_are_used_if_there_are_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_root: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    if has_root:
        monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    register_builtin()
    assert [len(DatasetCatalog.get(name)) for name in NAMES] == [96, 48, 24, 24]
    metadata = MetadataCatalog.get("emoji_scenes_held_out")
    assert metadata.stuff_classes == list(CLASSES)
    assert set(metadata.class_groups) == {"things", "stuff", "seen_things", "held_out_things"}


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


@pytest.mark.parametrize("name", NAMES)
def test_missing_scenes_are_reported_at_the_first_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(builtin, "CLONE", tmp_path / "no_clone")  # installed without the repository
    monkeypatch.chdir(tmp_path)
    register_builtin()
    for on_error in ("stop", "skip"):
        with pytest.raises(InputError, match=r"cliptrase prepare emoji_scenes .*DETECTRON2_DATASETS"):
            list_records(name, on_error)


def test_names_that_the_user_registered_are_unchanged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    register_dataset("emoji_scenes", tmp_path, ["sky"])
    register_builtin()
    register_builtin()
    assert MetadataCatalog.get("emoji_scenes").stuff_classes == ["sky"]
    assert not caplog.messages  # as requested, not by the order of imports


def test_names_of_other_packages_with_other_classes_are_reported_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    taken = {
        "emoji_scenes": ["sky"],
        "emoji_scenes_seen": [f"{name} " for name in CLASSES],  # Detectron2's ADE20K has such spaces
        "emoji_scenes_held_out": [*reversed(CLASSES)],
        "emoji_scenes_unseen_combination": None,
    }
    for name, classes in taken.items():
        DatasetCatalog.register(name, lambda: [])
        if classes:
            MetadataCatalog.get(name).set(stuff_classes=classes)
    with caplog.at_level(logging.WARNING):
        register_builtin()
    (message,) = caplog.messages
    assert message.startswith("emoji_scenes, emoji_scenes_held_out: ")
    assert "other class names" in message


def test_names_of_detectron2_are_not_reported(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        register_builtin()
    assert not caplog.messages
