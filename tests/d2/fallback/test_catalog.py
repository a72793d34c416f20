from __future__ import annotations

import pytest

from cliptrase_d2.d2.fallback.catalog import DatasetCatalog, MetadataCatalog


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DatasetCatalog, "data", {})
    monkeypatch.setattr(MetadataCatalog, "data", {})


def test_records_are_made_at_each_question() -> None:
    calls: list[int] = []
    DatasetCatalog.register("a", lambda: [{"file_name": str(calls.append(1))}])
    assert not calls
    assert DatasetCatalog.get("a") == [{"file_name": "None"}]
    assert "a" in DatasetCatalog
    assert DatasetCatalog.list() == ["a"]


def test_an_unknown_data_set_gives_the_known_names() -> None:
    DatasetCatalog.register("first", list)
    DatasetCatalog.register("second", list)
    with pytest.raises(KeyError, match="'third' is not registered! Available datasets are: first, second"):
        DatasetCatalog.get("third")


def test_a_name_is_taken_once_until_it_is_removed() -> None:
    DatasetCatalog.register("a", list)
    with pytest.raises(AssertionError, match="'a' is already registered"):
        DatasetCatalog.register("a", list)
    DatasetCatalog.remove("a")
    DatasetCatalog.register("a", list)
    assert DatasetCatalog.get("a") == []


def test_records_in_place_of_a_function_are_refused() -> None:
    with pytest.raises(AssertionError, match="must register a function"):
        DatasetCatalog.register("a", [{}])  # type: ignore[arg-type]


def test_metadata_are_one_object_per_name() -> None:
    MetadataCatalog.get("a").stuff_classes = ["sky"]
    assert MetadataCatalog.get("a").stuff_classes == ["sky"]
    assert MetadataCatalog.get("a").name == "a"
    assert MetadataCatalog.get("b").get("stuff_classes", "none") == "none"
    assert MetadataCatalog.list() == ["a", "b"]


def test_metadata_may_be_set_again_to_the_same_only() -> None:
    metadata = MetadataCatalog.get("a").set(stuff_classes=["sky"], ignore_label=255)
    metadata.stuff_classes = ["sky"]
    with pytest.raises(AssertionError, match="'ignore_label' in the metadata of 'a' cannot be set to a different"):
        metadata.ignore_label = 0
    assert metadata.as_dict() == {"name": "a", "stuff_classes": ["sky"], "ignore_label": 255}


def test_missing_metadata_give_the_known_names() -> None:
    MetadataCatalog.get("a").ignore_label = 255
    with pytest.raises(AttributeError, match=r"'stuff' does not exist .* dataset 'a'.* are: name, ignore_label"):
        MetadataCatalog.get("a").stuff  # noqa: B018


def test_metadata_of_no_name_are_refused() -> None:
    with pytest.raises(AssertionError, match="has a name"):
        MetadataCatalog.get("")
