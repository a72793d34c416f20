"""Configuration of SAN and its training: each key reaches its part."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cliptrase_d2.config import load_config
from cliptrase_d2.d2 import build_model
from cliptrase_d2.san import training, warm_start
from tests.san.tiny_san import tiny_san, training_config

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "san"
# Key, value, how to read it from the model, expected result. All values are set together.
OF_THE_MODEL: list[tuple[str, str, Callable[[Any], object], object]] = [
    ("MODEL.SAN.FEATURE_LAST_LAYER_IDX", "2", lambda san: san.clip_visual_extractor.depth, 2),
    ("MODEL.SAN.ALLOW_UNTRAINED", "False", lambda san: san.needs_training, True),
    ("MODEL.SAN.CLIP_RESOLUTION", "0.75", lambda san: san.clip_resolution, 0.75),
    ("MODEL.SAN.SIZE_DIVISIBILITY", "64", lambda san: san.size_divisibility, 64),
    ("MODEL.SAN.CLASS_WEIGHT", "3.0", lambda san: san.criterion.weights.label, 3.0),
    ("MODEL.SAN.MASK_WEIGHT", "4.0", lambda san: san.criterion.weights.mask, 4.0),
    ("MODEL.SAN.DICE_WEIGHT", "6.0", lambda san: san.criterion.weights.dice, 6.0),
    ("MODEL.SAN.NO_OBJECT_WEIGHT", "0.5", lambda san: san.criterion.no_object_weight, 0.5),
    ("MODEL.SAN.TRAIN_NUM_POINTS", "99", lambda san: san.criterion.points, 99),
    ("MODEL.SAN.OVERSAMPLE_RATIO", "2.0", lambda san: san.criterion.oversample, 2.0),
    ("MODEL.SAN.IMPORTANCE_SAMPLE_RATIO", "0.5", lambda san: san.criterion.importance, 0.5),
    ("MODEL.SIDE_ADAPTER.WIDTH", "32", lambda san: san.side_adapter_network.query_embed.shape[2], 32),
    ("MODEL.SIDE_ADAPTER.DEPTH", "3", lambda san: len(san.side_adapter_network.vit_model.blocks), 3),
    ("MODEL.SIDE_ADAPTER.HEADS", "4", lambda san: san.side_adapter_network.vit_model.blocks[0].attn.num_heads, 4),
    ("MODEL.SIDE_ADAPTER.PATCH_SIZE", "8", lambda san: san.side_adapter_network.patch_size, 8),
    ("MODEL.SIDE_ADAPTER.IMAGE_SIZE", "96", lambda san: san.side_adapter_network.vit_model.pos_embed.shape[1], 12 * 12),
    ("MODEL.SIDE_ADAPTER.NUM_QUERIES", "9", lambda san: san.side_adapter_network.query_embed.shape[1], 9),
    ("MODEL.SIDE_ADAPTER.FUSION_MAP", "['1->2']", lambda san: san.side_adapter_network.fusion, {2: 1}),
    ("MODEL.SIDE_ADAPTER.DEEP_SUPERVISION_IDXS", "[3]", lambda san: san.side_adapter_network.supervised_blocks, (3,)),
    ("MODEL.SIDE_ADAPTER.DECODER_CHANNELS", "12", lambda san: _query_layers(san)[0].out_features, 12),
    ("MODEL.SIDE_ADAPTER.DECODER_LAYERS", "2", lambda san: len(_query_layers(san)), 2),
    ("MODEL.CLIP.TEMPLATES", "vild", lambda san: san.text_encoder.templates, "vild"),
]
# Tested below, in test_training.py and in test_unlabelled.py.
OF_THE_TRAINING = {
    "INPUT.COLOR_AUG_SSD", "SOLVER.ACCUMULATION_STEPS", "SOLVER.MAX_TO_KEEP", "SOLVER.POLY_LR_POWER",
    "SOLVER.WEIGHT_DECAY_EMBED", "MODEL.SAN.QUERY_INIT", "MODEL.SAN.QUERY_INIT_IMAGES", "SOLVER.OPTIMIZER",
    "SOLVER.BACKBONE_MULTIPLIER", "SOLVER.CLIP_MULTIPLIER", "SOLVER.UNLABELLED_ITER", "DATASETS.UNLABELLED",
    "MODEL.SAN.TEACHER",
}  # fmt: skip


def _query_layers(san: Any) -> Any:
    return san.side_adapter_network.mask_decoder.query_mlp.layers


def test_keys_reach_the_model(tmp_path: Path) -> None:
    options = [word for key, value, *_ in OF_THE_MODEL for word in (key, value)]
    default, changed = build_model(training_config(tmp_path)), build_model(training_config(tmp_path, *options))
    expected = {key: value for key, _, _, value in OF_THE_MODEL}
    assert {key: read(changed) for key, _, read, _ in OF_THE_MODEL} == expected
    assert not [key for key, _, read, value in OF_THE_MODEL if read(default) == value]


@pytest.mark.parametrize(("options", "expected"), [((), (True, 1, 3)), (("False", "2", "7"), (False, 2, 7))])
def test_keys_reach_the_training(tmp_path: Path, options: tuple[str, ...], expected: tuple[object, ...]) -> None:
    keys = ("INPUT.COLOR_AUG_SSD", "SOLVER.ACCUMULATION_STEPS", "SOLVER.MAX_TO_KEEP")
    pairs = [word for pair in zip(keys, options, strict=False) for word in pair]
    cfg = training_config(tmp_path, "INPUT.MAX_PIXELS", "90", *pairs)
    Path(cfg.OUTPUT_DIR).mkdir()
    trainer = training.build_trainer(cfg, tiny_san(tmp_path))
    (limit,) = (hook.max_to_keep for hook in trainer._hooks if hasattr(hook, "max_to_keep"))
    assert (training.build_augmentation(cfg).colours, trainer.parts, limit) == expected
    assert training.build_dataset(cfg).max_pixels == 90


def test_warm_start_reads_the_configured_number_of_images(tmp_path: Path) -> None:
    for images, options in ((5, ()), (2, ("MODEL.SAN.QUERY_INIT_IMAGES", "2"))):
        cfg = training_config(tmp_path, *options)
        assert warm_start.sample_masks(cfg, cfg.DATASETS.TRAIN[0]).images == images


@pytest.mark.parametrize(("name", "split", "resolution"), [("b16", 9, 0.5), ("l14", 18, 0.7)])
def test_published_configurations_have_the_published_values(name: str, split: int, resolution: float) -> None:
    cfg = load_config(CONFIGS / f"san_vit_{name}.yaml")
    solver, san, side = cfg.SOLVER, cfg.MODEL.SAN, cfg.MODEL.SIDE_ADAPTER
    assert (solver.IMS_PER_BATCH, solver.MAX_ITER, solver.BASE_LR, solver.AMP.ENABLED) == (32, 60000, 1e-4, True)
    assert (solver.WEIGHT_DECAY, solver.WEIGHT_DECAY_EMBED, solver.CLIP_GRADIENTS.CLIP_VALUE) == (1e-4, 0.0, 0.01)
    assert (solver.OPTIMIZER, solver.BACKBONE_MULTIPLIER, solver.CLIP_MULTIPLIER) == ("ADAMW", 1.0, 1.0)
    assert (side.WIDTH, side.HEADS, side.DEPTH, side.PATCH_SIZE, side.NUM_QUERIES) == (240, 6, 8, 16, 100)
    assert (split, resolution, "none") == (san.FEATURE_LAST_LAYER_IDX, san.CLIP_RESOLUTION, san.QUERY_INIT)
    assert [f"{block * split // 3}->{block}" for block in range(4)] == side.FUSION_MAP


@pytest.mark.parametrize("kind", ["warm", "closed_form"])
def test_warm_configurations_differ_only_in_the_queries(kind: str) -> None:
    cold, warm = (load_config(CONFIGS / f"emoji_scenes_{name}.yaml") for name in ("cold", kind))
    warm.MODEL.SAN.QUERY_INIT, warm.OUTPUT_DIR = cold.MODEL.SAN.QUERY_INIT, cold.OUTPUT_DIR
    assert warm == cold


def test_unlabelled_configuration_only_adds_iterations() -> None:
    warm, unlabelled = (load_config(CONFIGS / f"emoji_scenes_{name}.yaml") for name in ("closed_form", "unlabelled"))
    assert (unlabelled.SOLVER.UNLABELLED_ITER, load_config(unlabelled.MODEL.SAN.TEACHER).TEST.PROTOCOL) == (
        100,
        "slide",
    )
    unlabelled.SOLVER.UNLABELLED_ITER, unlabelled.MODEL.SAN.TEACHER = 0, ""
    unlabelled.OUTPUT_DIR = warm.OUTPUT_DIR
    assert unlabelled == warm
