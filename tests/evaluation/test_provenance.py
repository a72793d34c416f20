"""What a number says about where it came from."""

from __future__ import annotations

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


def test_the_hash_is_twelve_digits_and_repeatable() -> None:
    assert re.fullmatch("[0-9a-f]{12}", config_hash(load_config()))
    assert config_hash(load_config()) == config_hash(load_config())


@pytest.mark.parametrize(
    "option",
    [("MODEL.CLIPTRASE.EPS", "0.71"), ("TEST.PROTOCOL", "slide"), ("MODEL.CLIP.SEED", "1"), ("SEED", "3")],
    ids=lambda option: option[0],
)
def test_the_hash_changes_with_a_key(option: tuple[str, str]) -> None:
    assert config_hash(load_config(options=option)) != config_hash(load_config())


@pytest.mark.parametrize(
    "option",
    [
        ("OUTPUT_DIR", "elsewhere"),
        ("TEST.EXPECTED_RESULTS", "[['sem_seg', 'mIoU', 25.0, 1.0]]"),
        ("DATALOADER.NUM_WORKERS", "7"),
        ("TEST.BATCH_SIZE", "3"),
    ],
    ids=lambda option: option[0],
)
def test_the_hash_does_not_depend_on_what_changes_no_number(option: tuple[str, str]) -> None:
    assert config_hash(load_config(options=option)) == config_hash(load_config())


def test_a_frozen_configuration_stays_as_it_is() -> None:
    cfg = load_config()
    cfg.freeze()
    config_hash(cfg)
    assert cfg.is_frozen()
    assert cfg.OUTPUT_DIR == load_config().OUTPUT_DIR


def test_the_data_hash_changes_with_what_labels_mean_and_not_with_folders(tmp_path: Path) -> None:
    def hashed(number: int, folder: str, **changes: Any) -> str:
        name = f"hash_{number}_{tmp_path.name}"
        return data_hash(register_dataset(name, **{"images": folder, "classes": ["a", "b"], "labels": "c", **changes}))

    first = hashed(0, "here")
    assert re.fullmatch("[0-9a-f]{12}", first)
    assert hashed(1, "there") == first
    others = (
        {"classes": ["a", "c"]},
        {"label_map": {0: 1}},
        {"ignore_label": 254},
        {"background": ["wall"]},
        {"groups": {"x": ["a"]}},
    )
    assert len({first, *(hashed(number, "here", **change) for number, change in enumerate(others, start=2))}) == 6


def test_versions_name_all_that_computes() -> None:
    found = versions()
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert ("fallback" in found["detectron2"]) == (BACKEND == "fallback")
    assert {"python", "cliptrase_d2", "open_clip_torch", "hdbscan", "numpy"} <= set(found)
    assert json.loads(json.dumps(found)) == found
