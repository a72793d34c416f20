from __future__ import annotations

import math

import pytest
import torch

from cliptrase_d2.d2.fallback.config import CfgNode, get_cfg
from cliptrase_d2.d2.fallback.solver import build_lr_scheduler
from cliptrase_d2.utils.errors import InputError


def _rates(cfg: CfgNode) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(cfg.SOLVER.MAX_ITER):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.fixture
def cfg() -> CfgNode:
    cfg = get_cfg()
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.BASE_LR = 10, 4, 1.0
    cfg.SOLVER.WARMUP_FACTOR, cfg.SOLVER.STEPS = 0.2, (6, 8)
    return cfg


def test_the_rate_climbs_then_falls_in_steps(cfg: CfgNode) -> None:
    expected = [0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 0.1, 0.1, 0.01, 0.01]
    assert _rates(cfg) == pytest.approx(expected)


def test_the_rate_may_wait_in_place_of_climbing(cfg: CfgNode) -> None:
    cfg.SOLVER.WARMUP_METHOD = "constant"
    assert _rates(cfg)[:5] == pytest.approx([0.2, 0.2, 0.2, 0.2, 1.0])


def test_the_rate_falls_as_a_cosine(cfg: CfgNode) -> None:
    cfg.SOLVER.LR_SCHEDULER_NAME, cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.BASE_LR_END = "WarmupCosineLR", 0, 0.2
    assert _rates(cfg) == pytest.approx([0.2 + 0.4 * (1 + math.cos(math.pi * i / 10)) for i in range(10)])


@pytest.mark.parametrize(("key", "value"), [("LR_SCHEDULER_NAME", "Poly"), ("WARMUP_METHOD", "cubic")])
def test_an_unknown_schedule_is_named(key: str, value: str, cfg: CfgNode) -> None:
    cfg.SOLVER[key] = value
    with pytest.raises(InputError, match=f"SOLVER.{key}: {value}. Allowed: "):
        build_lr_scheduler(cfg, torch.optim.SGD([torch.zeros(1)], lr=1.0))
