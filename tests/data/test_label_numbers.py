"""Numbers in label files against independent lists."""

from __future__ import annotations

import json
from pathlib import Path

from tests.command_line import ROOT


def test_ids_are_those_of_the_shared_maps(shared: Path) -> None:
    maps = json.loads((shared / "data" / "vocabularies.json").read_text(encoding="utf-8"))
    folder = ROOT / "cliptrase_d2" / "data" / "vocabularies"
    for key, file in (("ade847", "ade20k_full_ids.txt"), ("pc59", "pcontext_ids.txt")):
        expected = {int(raw): index for raw, index in maps[key]["raw_id_map"].items() if raw.isdigit() and index < 900}
        expected = {raw: index for raw, index in expected.items() if index != maps[key]["ignore_label"]}
        ids = [int(line) for line in (folder / file).read_text().split()]
        assert {raw: index for index, raw in enumerate(ids)} == expected
