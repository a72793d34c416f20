from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch


def _list_rates(backend: SimpleNamespace, **settings: object) -> list[float]:
    cfg = backend.config.get_cfg()
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.BASE_LR = 10, 4, 1.0
    cfg.SOLVER.WARMUP_FACTOR, cfg.SOLVER.STEPS = 0.2, (6, 8)
    cfg.SOLVER.update(settings)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = backend.solver.build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(cfg.SOLVER.MAX_ITER):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_the_rate_rises_linearly_then_falls_in_steps(backend: SimpleNamespace) -> None:
    assert _list_rates(backend) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 0.1, 0.1, 0.01, 0.01])


def test_the_warm_up_can_be_constant(backend: SimpleNamespace) -> None:
    assert _list_rates(backend, WARMUP_METHOD="constant")[:5] == pytest.approx([0.2, 0.2, 0.2, 0.2, 1.0])


def test_the_rate_can_fall_as_a_cosine(backend: SimpleNamespace) -> None:
    rates = _list_rates(backend, LR_SCHEDULER_NAME="WarmupCosineLR", WARMUP_ITERS=0, BASE_LR_END=0.2)
    assert rates == pytest.approx([0.2 + 0.4 * (1 + math.cos(math.pi * i / 10)) for i in range(10)])


@pytest.mark.parametrize(("key", "value"), [("LR_SCHEDULER_NAME", "Poly"), ("WARMUP_METHOD", "cubic")])
def test_an_unknown_schedule_is_named(backend: SimpleNamespace, key: str, value: str) -> None:
    with pytest.raises(ValueError, match=value):
        _list_rates(backend, **{key: value})
