from __future__ import annotations

from types import SimpleNamespace

import pytest


def test_records_are_listed_on_each_access(backend: SimpleNamespace) -> None:
    catalog = type(backend.catalog.DatasetCatalog)()
    calls: list[int] = []
    catalog.register("a", lambda: [{"file_name": str(calls.append(1))}])
    assert not calls
    assert catalog.get("a") == [{"file_name": "None"}]
    assert catalog.list() == ["a"]
    with pytest.raises(KeyError, match="b"):
        catalog.get("b")


def test_a_name_can_be_registered_again_only_after_removal(backend: SimpleNamespace) -> None:
    catalog = type(backend.catalog.DatasetCatalog)()
    catalog.register("a", list)
    with pytest.raises(AssertionError, match="'a'"):
        catalog.register("a", list)
    catalog.remove("a")
    catalog.register("a", list)
    assert catalog.get("a") == []


def test_metadata_are_one_object_per_name_and_cannot_change(backend: SimpleNamespace) -> None:
    catalog = type(backend.catalog.MetadataCatalog)()
    metadata = catalog.get("a").set(stuff_classes=["sky"], ignore_label=255)
    assert catalog.get("a") is metadata
    assert (metadata.name, metadata.stuff_classes, metadata.get("ignore_label")) == ("a", ["sky"], 255)
    assert catalog.get("b").get("stuff_classes", "none") == "none"
    assert catalog.list() == ["a", "b"]
    metadata.stuff_classes = ["sky"]  # an equal value
    with pytest.raises(AssertionError, match=r"'ignore_label'.*'a'"):
        metadata.ignore_label = 0
    with pytest.raises(AttributeError, match="things"):
        _ = metadata.things
