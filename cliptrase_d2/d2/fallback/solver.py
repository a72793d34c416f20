"""Serves `detectron2.solver`: learning rates that warm up, then follow a schedule of fvcore."""

from __future__ import annotations

from typing import Any

from fvcore.common.config import CfgNode
from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    ConstantParamScheduler,
    CosineParamScheduler,
    LinearParamScheduler,
    MultiStepParamScheduler,
    ParamScheduler,
)
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cliptrase_d2.utils.errors import InputError


class WarmupParamScheduler(CompositeParamScheduler):
    """Another scheduler after a start that climbs ("linear") or waits ("constant").

    Args:
        warmup_factor: the first multiplier, as a part of the scheduler's first.
        warmup_length: the part of the training, 0..1, that is warm-up.
    """

    def __init__(
        self, scheduler: ParamScheduler, warmup_factor: float, warmup_length: float, warmup_method: str = "linear"
    ):
        start = warmup_factor * scheduler(0.0)
        if warmup_method not in ("linear", "constant"):
            fix = "Correct SOLVER.WARMUP_METHOD."
            raise InputError("SOLVER.WARMUP_METHOD", warmup_method, fix, allowed="linear or constant")
        linear = warmup_method == "linear"
        warmup = LinearParamScheduler(start, scheduler(warmup_length)) if linear else ConstantParamScheduler(start)
        super().__init__([warmup, scheduler], [warmup_length, 1 - warmup_length], ["rescaled", "fixed"])


class LRMultiplier(LRScheduler):
    """Multiplies the first learning rate of each parameter group by what a `ParamScheduler` says."""

    def __init__(self, optimizer: Optimizer, multiplier: ParamScheduler, max_iter: int, last_iter: int = -1):
        self._multiplier, self._max_iter = multiplier, max_iter
        super().__init__(optimizer, last_epoch=last_iter)

    def state_dict(self) -> dict[str, Any]:
        """What differs from run to run; the schedule itself comes from the config."""
        return {"base_lrs": self.base_lrs, "last_epoch": self.last_epoch}

    def get_lr(self) -> list[Any]:
        """The learning rate of each parameter group at this iteration."""
        multiplier = self._multiplier(self.last_epoch / self._max_iter)
        return [base_lr * multiplier for base_lr in self.base_lrs]


def build_lr_scheduler(cfg: CfgNode, optimizer: Optimizer) -> LRMultiplier:
    """The schedule `cfg.SOLVER.LR_SCHEDULER_NAME` with its warm-up."""
    solver = cfg.SOLVER
    schedule: ParamScheduler
    if solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        steps = [step for step in solver.STEPS if step <= solver.MAX_ITER]
        values = [solver.GAMMA**k for k in range(len(steps) + 1)]
        schedule = MultiStepParamScheduler(values, milestones=steps, num_updates=solver.MAX_ITER)
    elif solver.LR_SCHEDULER_NAME == "WarmupCosineLR":
        schedule = CosineParamScheduler(1, solver.BASE_LR_END / solver.BASE_LR)
    else:
        allowed = "WarmupMultiStepLR or WarmupCosineLR"
        raise InputError("SOLVER.LR_SCHEDULER_NAME", solver.LR_SCHEDULER_NAME, "Choose one of them.", allowed=allowed)
    length = min(solver.WARMUP_ITERS / solver.MAX_ITER, 1.0)
    warm = WarmupParamScheduler(schedule, solver.WARMUP_FACTOR, length, solver.WARMUP_METHOD)
    return LRMultiplier(optimizer, warm, max_iter=solver.MAX_ITER)
