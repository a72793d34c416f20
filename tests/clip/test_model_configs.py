"""Configurations of transformers and open_clip beside weights, compared with the named model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from cliptrase_d2.clip.model_configs import read_open_clip_config, read_transformers_config
from cliptrase_d2.clip.weights_source import get_model_config
from cliptrase_d2.utils.errors import InputError

LARGE = {
    "projection_dim": 768,
    "text_config": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
    "vision_config": {
        "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24,
        "patch_size": 14,
    },
}  # fmt: skip
WORLDWIDE = {
    "model_type": "metaclip_2",
    "projection_dim": 1024,
    "text_config": {
        "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24,
        "vocab_size": 901629, "eos_token_id": 2,
    },
    "vision_config": {
        "hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 16, "num_hidden_layers": 32,
        "patch_size": 14,
    },
}  # fmt: skip


def write(folder: Path, content: object, name: str = "config.json") -> Path:
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder / name


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({}, "ViT-B-32"),
        ({"vision_config": {"patch_size": 16}}, "ViT-B-16"),
        ({"vision_config": {"patch_size": 16}}, "ViT-B/16"),
        (LARGE, "ViT-L-14"),
        (LARGE, "ViT-L-14-336"),  # the file's grid is adopted
        (WORLDWIDE, "ViT-H-14-worldwide"),
    ],
)
def test_configuration_of_transformers_belongs_to_the_model(tmp_path: Path, config: dict[str, Any], name: str) -> None:
    assert read_transformers_config(write(tmp_path, {"model_type": "clip", **config}), name) == {"quick_gelu": True}


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
@pytest.mark.parametrize("is_complete", [True, False])
def test_configuration_as_transformers_writes_it(tmp_path: Path, activation: str, is_complete: bool) -> None:
    towers = {name: {"hidden_act": activation} for name in ("vision_config", "text_config")}
    config = transformers.CLIPConfig(**towers)
    write(tmp_path, config.to_dict() if is_complete else config.to_diff_dict())
    assert read_transformers_config(tmp_path / "config.json", "ViT-B-32") == {"quick_gelu": activation == "quick_gelu"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LARGE, r"image width 1024, not 768.*It is that of ViT-L-14\."),
        (
            {**LARGE, "vision_config": {**LARGE["vision_config"], "image_size": 336}},
            r"It is that of ViT-L-14-336\.",
        ),
        ({"vision_config": {"num_attention_heads": 24}}, r"image heads 24, not 12.*add_model_config"),
        (WORLDWIDE, r"vocab_size 901629, not 49408"),
    ],
)
def test_configuration_of_another_model_is_named(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=rf"config\.json: .*than ViT-B-32; .*{message}"):
        read_transformers_config(write(tmp_path, {"model_type": "clip", **config}), "ViT-B-32")


@pytest.mark.parametrize(
    "content",
    [
        *("{", "[" * 100_000, '"text"', '{"model_type": "clip", "vision_config": 3}'),
        {"model_type": "clip", "vision_config": {"hidden_act": "gelu"}},
        {"model_type": "clip", "vision_config": {"hidden_act": "relu"}, "text_config": {"hidden_act": "relu"}},
        {"model_type": "clip", "vision_config": {"num_attention_heads": 0}},
        {"model_type": "clip", "vision_config": {"hidden_size": "wide"}},
        {"model_type": "clip", "vision_config": {"layer_norm_eps": 1e-6}},
        {"model_type": ["clip"]},
        {},
    ],
)
def test_invalid_configuration_of_transformers_is_rejected(tmp_path: Path, content: object) -> None:
    with pytest.raises(InputError, match=r"config\.json: "):
        read_transformers_config(write(tmp_path, content), "ViT-B-32")


def test_invalid_statistics_are_rejected(tmp_path: Path) -> None:
    write(tmp_path, {"image_mean": [0, 0, 0], "image_std": [0, 0, 0]}, "preprocessor_config.json")
    with pytest.raises(InputError, match=r"preprocessor_config\.json: .*std"):
        read_transformers_config(write(tmp_path, {"model_type": "clip"}), "ViT-B-32")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-L-14", r"It is that of ViT-L-14\."),
        ("ViT-B-16-SigLIP", r"later version.*ViT-B-16"),
        ("EVA02-L-14-336", r"later version.*ViT-L-14-336"),
    ],
)
def test_configuration_of_open_clip_is_compared(tmp_path: Path, name: str, message: str) -> None:
    import open_clip

    statistics = {"mean": [0.5] * 3, "std": [0.5] * 3}
    content = {"model_cfg": open_clip.get_model_config(name), "preprocess_cfg": statistics}
    path = write(tmp_path, content, "open_clip_config.json")
    with pytest.raises(InputError, match=rf"open_clip_config\.json: .*{message}"):
        read_open_clip_config(path, "ViT-B-32")


def test_configuration_of_the_same_model_is_accepted(tmp_path: Path) -> None:
    config = {**get_model_config("ViT-B-32"), "quick_gelu": True}
    content = {"model_cfg": config, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    path = write(tmp_path, content, "open_clip_config.json")
    assert read_open_clip_config(path, "ViT-B-32")["quick_gelu"] is True
