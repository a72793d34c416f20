import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from cliptrase_d2.config import load_config
from cliptrase_d2.d2 import BACKEND
from cliptrase_d2.data.register import register_dataset
from cliptrase_d2.evaluation.provenance import config_hash, data_hash, versions


@pytest.mark.parametrize(
    ("key", "value", "changes"),
    [
        ("MODEL.CLIPTRASE.EPS", "0.71", True),
        ("TEST.PROTOCOL", "slide", True),
        ("MODEL.CLIP.SEED", "1", True),
        ("MODEL.VISION.NAME", "vit_base_patch16_224.dino", True),
        ("SEED", "3", True),
        ("OUTPUT_DIR", "elsewhere", False),
        ("TEST.EXPECTED_RESULTS", "[['sem_seg', 'mIoU', 25.0, 1.0]]", False),
        ("DATALOADER.NUM_WORKERS", "7", False),
        ("TEST.BATCH_SIZE", "3", False),
    ],
)
def test_config_hash_changes_with_keys_that_can_change_a_result(key: str, value: str, changes: bool) -> None:
    assert (config_hash(load_config(options=(key, value))) != config_hash(load_config())) == changes


@pytest.mark.parametrize("key", ["MODEL.CLIP.TEMPLATES", "TEST.PUBLISHED.EXPERTS"])
def test_config_hash_changes_with_the_content_of_a_file(tmp_path: Path, key: str) -> None:
    file, hashes = tmp_path / "templates.txt", set()
    for content in ("a {}", "the {}"):
        file.write_text(content)
        hashes.add(config_hash(load_config(options=(key, str(file)))))
    assert len(hashes) == 2


def test_data_hash_changes_with_the_meaning_of_labels_and_not_with_folders(tmp_path: Path) -> None:
    def register_and_hash(number: int, folder: str = "here", **changes: Any) -> str:
        name = f"hash_{number}_{tmp_path.name}"
        return data_hash(register_dataset(name, **{"images": folder, "classes": ["a", "b"], "labels": "c", **changes}))

    first = register_and_hash(0)
    assert re.fullmatch("[0-9a-f]{12}", first)
    assert register_and_hash(1, "there") == first
    changes: list[dict[str, Any]] = [
        {"classes": ["a", "c"]},
        {"label_map": {0: 1}},
        {"ignore_label": 254},
        {"background": ["wall"]},
        {"groups": {"x": ["a"]}},
        {"stretch": [0, 3000]},
    ]
    hashes = {first, *(register_and_hash(number, **change) for number, change in enumerate(changes, start=2))}
    assert len(hashes) == 7


def test_versions_include_all_packages_that_affect_a_result() -> None:
    packages = versions()
    assert packages["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert ("fallback" in packages["detectron2"]) == (BACKEND == "fallback")
    assert {"python", "cliptrase_d2", "open_clip_torch", "hdbscan", "numpy"} <= set(packages)
    assert json.loads(json.dumps(packages)) == packages
