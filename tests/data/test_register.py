from pathlib import Path
from typing import Any

import pytest

from cliptrase_d2.d2 import DatasetCatalog, MetadataCatalog
from cliptrase_d2.data.loader import list_records
from cliptrase_d2.data.register import get_dataset_groups, get_dataset_labels, register_dataset, require_registered
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.visualization.colours import ClassColours


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Return a folder with two images, beside a folder ``labels`` with their label files."""
    for folder, suffix in (("images", "jpg"), ("labels", "png")):
        (tmp_path / folder).mkdir()
        for stem in ("img10", "img9"):
            (tmp_path / folder / f"{stem}.{suffix}").touch()
    return tmp_path / "images"


@pytest.fixture
def name(tmp_path: Path) -> str:
    return f"register_{tmp_path.name}"


def test_records_and_metadata(images: Path, name: str) -> None:
    labels = images.parent / "labels"
    assert register_dataset(name, images, ["sky", "tree"], labels, label_map={9: 2}, background=["wall"]) == name
    assert DatasetCatalog.get(name) == [
        {
            "file_name": str(images / f"{stem}.jpg"),
            "sem_seg_file_name": str(labels / f"{stem}.png"),
            "meta": {"dataset_name": name},
        }
        for stem in ("img9", "img10")
    ]
    metadata = MetadataCatalog.get(name)
    assert metadata.stuff_classes == ["sky", "tree", "background"]
    assert (metadata.ignore_label, metadata.label_map, metadata.evaluator_type) == (255, {9: 2}, "sem_seg")
    assert metadata.stuff_colors == ClassColours(metadata.stuff_classes).assign([]).tolist()
    vocabulary, rule = get_dataset_labels(name)
    assert vocabulary.prompts == ("sky", "tree", "wall")
    assert (rule.num_classes, rule.label_map) == (3, {9: 2})


def test_groups_of_classes(images: Path, name: str) -> None:
    groups = {"stuff": ["tree", "sky"], "all": ["sky", "tree", "background"]}
    for spelling in (groups, {group: tuple(classes) for group, classes in groups.items()}):  # the same data set twice
        register_dataset(name, images, ["sky", "tree"], background=["wall"], groups=spelling)
    assert get_dataset_groups(name) == {"stuff": (1, 0), "all": (0, 1, 2)}


def test_data_set_without_labels(images: Path, name: str) -> None:
    register_dataset(name, str(images), ["sky"])
    assert [record.keys() for record in DatasetCatalog.get(name)] == [{"file_name", "meta"}] * 2
    assert get_dataset_groups(name) == {}


def test_name_of_another_data_set_is_rejected(images: Path, name: str) -> None:
    register_dataset(name, images, ["sky"])
    DatasetCatalog.register(f"{name}_of_detectron2", lambda: [])
    for taken in (name, f"{name}_of_detectron2"):
        with pytest.raises(InputError, match=rf"'{taken}'"):
            register_dataset(taken, images, ["sea"])


def test_data_set_without_class_names_is_rejected(name: str) -> None:
    DatasetCatalog.register(name, lambda: [])
    with pytest.raises(InputError, match=rf"^dataset_name: the data set '{name}' has no class names.*stuff_classes"):
        get_dataset_labels(name)


@pytest.mark.parametrize("read", [get_dataset_labels, get_dataset_groups, lambda name: list_records(name, "skip")])
def test_an_unknown_name_is_rejected_and_gets_no_metadata(name: str, read: Any) -> None:
    with pytest.raises(InputError, match=rf"^dataset_name: unknown data set '{name}'"):
        read(name)
    assert name not in MetadataCatalog.list()


def test_a_mistyped_name_is_answered_by_similar_ones_and_no_long_list(images: Path, name: str) -> None:
    for other in ("a", "b"):
        register_dataset(f"{name}_{other}", images, ["sky"])
    DatasetCatalog.register(f"{name}_x", lambda: [])  # cannot be used: it has no class names
    with pytest.raises(InputError) as caught:
        require_registered(f"{name.upper()}_A", "DATASETS.TRAIN")
    assert str(caught.value) == f"DATASETS.TRAIN: unknown data set '{name.upper()}_A'. Did you mean '{name}_a'?"
    with pytest.raises(InputError) as caught:
        require_registered(f"{name}_", "DATASETS.TRAIN")
    assert {f"'{name}_a'", f"'{name}_b'"} <= set(caught.value.fix.rstrip("?").split())
    assert f"{name}_x" not in caught.value.fix
    assert caught.value.allowed is None


def test_a_name_unlike_all_others_is_answered_by_all_of_them(images: Path, name: str) -> None:
    register_dataset(name, images, ["sky"])
    with pytest.raises(InputError, match=r"^KEY: unknown data set '§'\..*register_dataset.*--dataset") as caught:
        require_registered("§", "KEY")
    assert name in str(caught.value.allowed).split(", ")


def test_records_of_a_data_set_share_one_meta(images: Path, name: str) -> None:
    register_dataset(name, images, ["sky"], images.parent / "labels")
    (images / "a.jpg").touch()  # without a label file
    records = list_records(name, "skip")
    assert len(records) == 3
    assert records[0]["meta"] == {"dataset_name": name}
    assert records[0]["meta"] is records[1]["meta"]


def test_files_without_a_partner_are_listed(images: Path, name: str) -> None:
    labels = images.parent / "labels"
    register_dataset(name, images, ["sky"], labels)
    (images / "a.jpg").touch()
    with pytest.raises(InputError, match=r"a\.jpg: no label file"):
        DatasetCatalog.get(name)
    for stem in "bcde":
        (labels / f"{stem}.png").touch()
    files = ", ".join(str(labels / f"{stem}.png") for stem in "bcd")
    with pytest.raises(InputError, match=rf"^{files} and 1 more: no image"):
        DatasetCatalog.get(name)


def test_classes_may_be_a_dict_and_the_background_a_ready_list(images: Path, name: str) -> None:
    register_dataset(name, images, {"person": ["man", "woman"], "sky": []}, background="common")
    vocabulary = MetadataCatalog.get(name).vocabulary
    assert vocabulary.words[:2] == (("person", "man", "woman"), ("sky",))
    assert vocabulary.words[2][:2] == ("cloud", "wall")  # without the sky


def test_official_names_with_commas_are_classes(images: Path, name: str) -> None:
    register_dataset(name, images, ["building, edifice", "sky"])
    assert get_dataset_labels(name)[0].classes == ("building, edifice", "sky")


@pytest.mark.parametrize(
    ("classes", "options"),
    [
        ("sky", {}),
        (["sky,"], {}),
        (["sky"], {"background": "vox"}),
        ([], {}),
        (["sky", "sky"], {}),
        (["sky", " "], {}),
        (["sky"], {"groups": {"things": "sky"}}),
        (["sky"], {"groups": {"things": ["sea"]}}),
        (["sky", "tree"], {"labels": "labels", "label_map": {1: 2}}),
    ],
)
def test_invalid_descriptions_are_rejected(tmp_path: Path, classes: list[str], options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="data set 'unusable'"):
        register_dataset("unusable", tmp_path, classes, **options)
    assert "unusable" not in DatasetCatalog.list()
