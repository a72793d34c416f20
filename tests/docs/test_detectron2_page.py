"""The guide for users of Detectron2 names every key of the published SAN beside the key that replaces it."""

from __future__ import annotations

import pytest

from cliptrase_d2.d2.published_keys import PUBLISHED_KEYS, PublishedKey
from tests.docs.pages import ROOT


@pytest.mark.parametrize("key", PUBLISHED_KEYS, ids=lambda key: key.name)
def test_published_key_is_in_the_table(key: PublishedKey) -> None:
    lines = (ROOT / "docs" / "detectron2.md").read_text(encoding="utf-8").splitlines()
    (row,) = [line.split(" | ") for line in lines if line.startswith("| `") and f"`{key.name}`" in line.split(" | ")[0]]
    assert [f"`{name}`" for name in key.ours] == [name for name in row[1].split(", ") if name != "none"]
