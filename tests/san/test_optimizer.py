"""AdamW, its weight decays by kind, and the schedule."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cliptrase_d2.d2 import CfgNode
from cliptrase_d2.san.optimizer import build_optimizer, build_schedule, gradient_limit
from cliptrase_d2.utils.errors import InputError
from tests.san.tiny_san import tiny_san, tiny_san_config

POLY = ("SOLVER.LR_SCHEDULER_NAME", "WarmupPolyLR", "SOLVER.WARMUP_ITERS", "0", "SOLVER.MAX_ITER", "100")


def rates(cfg: CfgNode, steps: list[int]) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], cfg.SOLVER.BASE_LR)
    schedule = build_schedule(cfg, optimizer)
    found = []
    for step in range(max(steps) + 1):
        if step in steps:
            found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_decay_is_of_weights_and_not_of_norms_and_embeddings(tmp_path: Path) -> None:
    model = tiny_san(tmp_path)
    optimizer = build_optimizer(tiny_san_config(tmp_path, "SOLVER.WEIGHT_DECAY", "0.5"), model)
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] == 0.5 for p in group["params"]}
    kept = {name for name, p in model.named_parameters() if p.requires_grad and id(p) not in decayed}
    side = "side_adapter_network."
    assert {name for name in kept if "norm" not in name} == {
        f"{side}query_embed", f"{side}query_pos_embed", f"{side}vit_model.pos_embed",
        "clip_visual_extractor.positional_embedding",
    }  # fmt: skip
    assert f"{side}vit_model.blocks.0.norm1.weight" in kept
    assert f"{side}fusion_layers.layer_0.input_proj.0.weight" not in kept  # as published
    assert "ov_classifier.bg_embed" not in kept


def test_every_kind_has_its_key(tmp_path: Path) -> None:
    keys = ("SOLVER.WEIGHT_DECAY", "0.1", "SOLVER.WEIGHT_DECAY_NORM", "0.2", "SOLVER.WEIGHT_DECAY_EMBED", "0.3")
    optimizer = build_optimizer(tiny_san_config(tmp_path, *keys), tiny_san(tmp_path))
    assert sorted(group["weight_decay"] for group in optimizer.param_groups) == [0.1, 0.2, 0.3]


def test_each_trained_parameter_is_there_once(tmp_path: Path) -> None:
    model = tiny_san(tmp_path)
    optimizer = build_optimizer(tiny_san_config(tmp_path), model)
    found = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(found) == sorted(id(p) for p in model.parameters() if p.requires_grad)


def test_nothing_to_train_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to train"):
        build_optimizer(tiny_san_config(tmp_path), tiny_san(tmp_path).requires_grad_(False))


def test_poly_by_hand(tmp_path: Path) -> None:
    cfg = tiny_san_config(tmp_path, *POLY, "SOLVER.BASE_LR", "2.0", "SOLVER.POLY_LR_POWER", "2.0")
    assert rates(cfg, [0, 50, 90]) == pytest.approx([2.0, 2.0 * 0.25, 2.0 * 0.01])


def test_the_published_rate(tmp_path: Path) -> None:
    cfg = tiny_san_config(tmp_path, *POLY, "SOLVER.BASE_LR", "0.0001", "SOLVER.MAX_ITER", "60000")
    assert rates(cfg, [19]) == pytest.approx([9.9971e-05], rel=1e-5)  # what the published log has


def test_poly_can_warm_up(tmp_path: Path) -> None:
    warm = ("SOLVER.WARMUP_ITERS", "10", "SOLVER.WARMUP_FACTOR", "0.1")
    cfg = tiny_san_config(tmp_path, *POLY, *warm, "SOLVER.BASE_LR", "1.0")
    start, end = rates(cfg, [0, 10])
    assert start == pytest.approx(0.1)
    assert end == pytest.approx(0.9**0.9, rel=0.01)


def test_detectron2s_schedules_are_there_too(tmp_path: Path) -> None:
    cfg = tiny_san_config(tmp_path, *POLY, "SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.BASE_LR", "1.0")
    assert rates(cfg, [50]) == pytest.approx([0.5])


def test_gradients_have_a_limit_where_there_is_one(tmp_path: Path) -> None:
    clip = "SOLVER.CLIP_GRADIENTS"
    assert gradient_limit(tiny_san_config(tmp_path)) is None
    full = (f"{clip}.ENABLED", "True", f"{clip}.CLIP_TYPE", "full_model")
    assert gradient_limit(tiny_san_config(tmp_path, *full, f"{clip}.CLIP_VALUE", "0.25")) == 0.25
    for wrong in ((f"{clip}.CLIP_TYPE", "value"), (f"{clip}.CLIP_VALUE", "0.0")):
        with pytest.raises(InputError, match="CLIP_GRADIENTS"):
            gradient_limit(tiny_san_config(tmp_path, *full, *wrong))
