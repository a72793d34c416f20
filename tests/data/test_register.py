from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cliptrase_d2.d2 import DatasetCatalog, MetadataCatalog
from cliptrase_d2.data.register import dataset_groups, dataset_labels, register_dataset
from cliptrase_d2.utils.errors import InputError


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    images, labels = tmp_path / "images", tmp_path / "labels"
    for folder, suffix in ((images, "jpg"), (labels, "png")):
        folder.mkdir()
        for stem in ("img10", "img9"):
            (folder / f"{stem}.{suffix}").touch()
    return images, labels


@pytest.fixture
def name(tmp_path: Path) -> str:
    return f"register_{tmp_path.name}"


def test_records_and_metadata(folders: tuple[Path, Path], name: str) -> None:
    images, labels = folders
    assert register_dataset(name, images, ["sky", "tree"], labels, label_map={1: 0}, background=["wall"]) == name
    assert DatasetCatalog.get(name) == [
        {"file_name": str(images / "img9.jpg"), "sem_seg_file_name": str(labels / "img9.png")},
        {"file_name": str(images / "img10.jpg"), "sem_seg_file_name": str(labels / "img10.png")},
    ]
    metadata = MetadataCatalog.get(name)
    assert metadata.stuff_classes == ["sky", "tree", "background"]
    assert metadata.vocabulary.prompts == ("sky", "tree", "wall")
    assert (metadata.ignore_label, metadata.label_map, metadata.evaluator_type) == (255, {1: 0}, "sem_seg")


def test_background_is_a_legal_class_of_the_labels(folders: tuple[Path, Path], name: str) -> None:
    register_dataset(name, *folders[:1], ["sky", "tree"], folders[1], label_map={9: 2}, background=["wall"])
    vocabulary, rule = dataset_labels(name)
    assert vocabulary.classes[2] == "background"
    assert (rule.num_classes, rule.label_map) == (3, {9: 2})


def test_groups_of_classes(folders: tuple[Path, Path], name: str) -> None:
    groups = {"stuff": ["tree", "sky"], "all": ["sky", "tree", "background"]}
    for given in (groups, {group: tuple(classes) for group, classes in groups.items()}):  # the same set once more
        register_dataset(name, folders[0], ["sky", "tree"], background=["wall"], groups=given)
    assert dataset_groups(name) == {"stuff": (1, 0), "all": (0, 1, 2)}


def test_set_without_groups(folders: tuple[Path, Path], name: str) -> None:
    assert dataset_groups(register_dataset(name, folders[0], ["sky"])) == {}
    assert dataset_groups("known_to_nobody") == {}


@pytest.mark.parametrize("groups", [{"things": "sky"}, {"things": ["sea"]}])
def test_groups_that_cannot_be(tmp_path: Path, groups: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="data set 'unusable'"):
        register_dataset("unusable", tmp_path, ["sky"], groups=groups)


def test_prediction_only(folders: tuple[Path, Path], name: str) -> None:
    register_dataset(name, str(folders[0]), ["sky"])
    assert [record.keys() for record in DatasetCatalog.get(name)] == [{"file_name"}] * 2


def test_once_more_is_nothing_new(folders: tuple[Path, Path], name: str) -> None:
    register_dataset(name, folders[0], ["sky"])
    assert register_dataset(name, folders[0], ("sky",)) == name


def test_another_set_of_that_name(folders: tuple[Path, Path], name: str) -> None:
    register_dataset(name, folders[0], ["sky"])
    with pytest.raises(InputError, match="which another data set has"):
        register_dataset(name, folders[0], ["sea"])


def test_name_of_a_set_that_somebody_else_registered(folders: tuple[Path, Path], name: str) -> None:
    DatasetCatalog.register(name, lambda: [])
    with pytest.raises(InputError, match="which another data set has"):
        register_dataset(name, folders[0], ["sky"])


def test_set_that_names_no_classes(name: str) -> None:
    DatasetCatalog.register(name, lambda: [])
    with pytest.raises(InputError, match="no class"):
        dataset_labels(name)


def test_label_file_without_its_image(folders: tuple[Path, Path], name: str) -> None:
    images, labels = folders
    for stem in "abcd":
        (labels / f"{stem}.png").touch()
    register_dataset(name, images, ["sky"], labels)
    with pytest.raises(InputError) as caught:
        DatasetCatalog.get(name)
    message = str(caught.value)
    assert all(str(labels / f"{stem}.png") in message for stem in "abc")
    assert "and 1 more: no image of that stem in" in message


def test_image_without_its_label_file(folders: tuple[Path, Path], name: str) -> None:
    images, labels = folders
    (images / "a.jpg").touch()
    register_dataset(name, images, ["sky"], labels)
    with pytest.raises(InputError, match=r"a\.jpg: no label file of that stem in"):
        DatasetCatalog.get(name)


def test_missing_folder_is_said_when_the_set_is_used(tmp_path: Path, name: str) -> None:
    register_dataset(name, tmp_path / "none", ["sky"])
    with pytest.raises(InputError, match="no such folder"):
        DatasetCatalog.get(name)


@pytest.mark.parametrize("classes", ["sky", [], ["sky", "sky"], ["sky", " "]])
def test_vocabulary_that_cannot_be(tmp_path: Path, classes: list[str]) -> None:
    with pytest.raises(InputError, match="data set 'unusable'"):
        register_dataset("unusable", tmp_path, classes)
    assert "unusable" not in DatasetCatalog.list()


def test_mapped_label_beyond_the_classes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="label_map entry 1: 2"):
        register_dataset("unusable", tmp_path, ["sky", "tree"], tmp_path / "labels", label_map={1: 2})
