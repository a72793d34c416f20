"""The configuration of SAN and of its training: every key reaches the part that it is for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cliptrase_d2.config import load_config
from cliptrase_d2.d2 import build_model
from cliptrase_d2.san import training, warm_start
from cliptrase_d2.san.model import SAN
from cliptrase_d2.san.optimizer import build_optimizer, build_schedule
from tests.san.tiny_san import tiny_san
from tests.san.tiny_training import training_config

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "san"
# Key, value, what the built model is asked, its answer.
OF_THE_MODEL: list[tuple[str, str, Callable[[SAN], object], object]] = [
    ("MODEL.SAN.FEATURE_LAST_LAYER_IDX", "2", lambda san: san.clip_visual_extractor.depth, 2),
    ("MODEL.SAN.CLIP_RESOLUTION", "0.75", lambda san: san.clip_resolution, 0.75),
    ("MODEL.SAN.SIZE_DIVISIBILITY", "64", lambda san: san.size_divisibility, 64),
    ("MODEL.SAN.CLASS_WEIGHT", "3.0", lambda san: _criterion(san).weights.label, 3.0),
    ("MODEL.SAN.MASK_WEIGHT", "4.0", lambda san: _criterion(san).weights.mask, 4.0),
    ("MODEL.SAN.DICE_WEIGHT", "6.0", lambda san: _criterion(san).weights.dice, 6.0),
    ("MODEL.SAN.NO_OBJECT_WEIGHT", "0.5", lambda san: _criterion(san).no_object_weight, 0.5),
    ("MODEL.SAN.TRAIN_NUM_POINTS", "99", lambda san: _criterion(san).points, 99),
    ("MODEL.SAN.OVERSAMPLE_RATIO", "2.0", lambda san: _criterion(san).oversample, 2.0),
    ("MODEL.SAN.IMPORTANCE_SAMPLE_RATIO", "0.5", lambda san: _criterion(san).importance, 0.5),
    ("MODEL.SAN.QUERY_INIT", "per_image", lambda san: san.query_init is not None, True),
    ("MODEL.SIDE_ADAPTER.WIDTH", "32", lambda san: san.side_adapter_network.query_embed.shape[2], 32),
    ("MODEL.SIDE_ADAPTER.DEPTH", "3", lambda san: len(san.side_adapter_network.vit_model.blocks), 3),
    ("MODEL.SIDE_ADAPTER.HEADS", "4", lambda san: san.side_adapter_network.vit_model.blocks[0].attn.num_heads, 4),
    ("MODEL.SIDE_ADAPTER.PATCH_SIZE", "8", lambda san: san.side_adapter_network.patch_size, 8),
    ("MODEL.SIDE_ADAPTER.IMAGE_SIZE", "96", lambda san: san.side_adapter_network.vit_model.pos_embed.shape[1], 36),
    ("MODEL.SIDE_ADAPTER.NUM_QUERIES", "9", lambda san: san.side_adapter_network.query_embed.shape[1], 9),
    ("MODEL.SIDE_ADAPTER.FUSION_MAP", "['1->2']", lambda san: san.side_adapter_network.fusion, {2: 1}),
    ("MODEL.SIDE_ADAPTER.DEEP_SUPERVISION_IDXS", "[2]", lambda san: san.side_adapter_network.supervised_blocks, (2,)),
    ("MODEL.SIDE_ADAPTER.DECODER_CHANNELS", "12", lambda san: _first_layer(san).out_features, 12),
    (
        "MODEL.SIDE_ADAPTER.DECODER_LAYERS",
        "2",
        lambda san: len(san.side_adapter_network.mask_decoder.pix_mlp.layers),
        2,
    ),
    ("MODEL.CLIP.TEMPLATES", "vild", lambda san: san.text_encoder.templates, "vild"),
]
# These are tested by name below.
OF_THE_TRAINING = {
    "INPUT.COLOR_AUG_SSD", "SOLVER.ACCUMULATION_STEPS", "SOLVER.MAX_TO_KEEP", "SOLVER.POLY_LR_POWER",
    "SOLVER.WEIGHT_DECAY_EMBED", "MODEL.SAN.QUERY_INIT_IMAGES",
}  # fmt: skip


def _criterion(san: SAN) -> Any:
    assert san.criterion is not None
    return san.criterion


def _first_layer(san: SAN) -> Any:
    return san.side_adapter_network.mask_decoder.query_mlp.layers[0]


@pytest.mark.parametrize(("key", "value", "read", "expected"), OF_THE_MODEL, ids=lambda value: value)
def test_key_reaches_the_model(
    tmp_path: Path, key: str, value: str, read: Callable[[Any], object], expected: object
) -> None:
    more = ("MODEL.SIDE_ADAPTER.DEEP_SUPERVISION_IDXS", "[2, 3]") if key.endswith("DEPTH") else ()
    assert read(build_model(training_config(tmp_path))) != expected  # the default is another
    assert read(build_model(training_config(tmp_path, key, value, *more))) == expected


def test_keys_reach_the_training(tmp_path: Path) -> None:
    keys = ("INPUT.COLOR_AUG_SSD", "False", "SOLVER.ACCUMULATION_STEPS", "2", "SOLVER.MAX_TO_KEEP", "7")
    plain, changed = training_config(tmp_path), training_config(tmp_path, *keys, "INPUT.MAX_PIXELS", "90")
    Path(plain.OUTPUT_DIR).mkdir()
    for cfg, colours, parts, kept in ((plain, True, 1, 3), (changed, False, 2, 7)):
        trainer, checkpointer, schedule = training._trainer(cfg, tiny_san(tmp_path))
        hooks = training._hooks(cfg, trainer, checkpointer, schedule)
        assert training._augmentation(cfg).colours == colours
        assert trainer.parts == parts
        assert training._training_data(cfg)[1].max_pixels == cfg.INPUT.MAX_PIXELS
        assert [hook.max_to_keep for hook in hooks if hasattr(hook, "max_to_keep")] == [kept]


def test_keys_reach_the_optimizer_and_its_schedule(tmp_path: Path) -> None:
    cfg = training_config(tmp_path, "SOLVER.WEIGHT_DECAY_EMBED", "0.7", "SOLVER.POLY_LR_POWER", "3.0")
    optimizer = build_optimizer(cfg, tiny_san(tmp_path))
    assert 0.7 in {group["weight_decay"] for group in optimizer.param_groups}
    schedule = build_schedule(cfg, optimizer)
    optimizer.step()
    schedule.step()  # one of four iterations
    assert optimizer.param_groups[0]["lr"] == pytest.approx(cfg.SOLVER.BASE_LR * 0.75**3)


def test_a_warm_start_looks_at_as_many_images_as_it_is_told(tmp_path: Path) -> None:
    cfg = training_config(tmp_path, "MODEL.SAN.QUERY_INIT_IMAGES", "2")
    assert warm_start.sample_masks(cfg, cfg.DATASETS.TRAIN[0]).images == 2
    assert warm_start.sample_masks(training_config(tmp_path), cfg.DATASETS.TRAIN[0]).images == 5


def test_the_published_configurations_are_the_published_ones() -> None:
    base, large = (load_config(CONFIGS / f"san_vit_{name}.yaml") for name in ("b16", "l14"))
    for cfg in (base, large):
        assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR) == (32, 60000, 1e-4)
        assert (cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.WEIGHT_DECAY_EMBED) == (1e-4, 0.0)
        assert cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE == 0.01
        assert cfg.SOLVER.AMP.ENABLED
        assert cfg.MODEL.SAN.QUERY_INIT == "none"
        side = cfg.MODEL.SIDE_ADAPTER
        assert (side.WIDTH, side.HEADS, side.DEPTH, side.PATCH_SIZE, side.NUM_QUERIES) == (240, 6, 8, 16, 100)
    assert (base.MODEL.SAN.FEATURE_LAST_LAYER_IDX, base.MODEL.SAN.CLIP_RESOLUTION) == (9, 0.5)
    assert (large.MODEL.SAN.FEATURE_LAST_LAYER_IDX, large.MODEL.SAN.CLIP_RESOLUTION) == (18, 0.7)
    assert large.MODEL.SIDE_ADAPTER.FUSION_MAP == ["0->0", "6->1", "12->2", "18->3"]


@pytest.mark.parametrize("kind", ["warm", "per_image"])
def test_warm_configurations_differ_from_the_cold_one_in_the_queries_alone(kind: str) -> None:
    cold, warm = (load_config(CONFIGS / f"emoji_scenes_{name}.yaml") for name in ("cold", kind))
    warm.MODEL.SAN.QUERY_INIT, warm.OUTPUT_DIR = cold.MODEL.SAN.QUERY_INIT, cold.OUTPUT_DIR
    assert warm == cold
