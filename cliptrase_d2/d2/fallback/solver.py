"""Learning rate schedules with warm-up, as in `detectron2.solver`, on fvcore's parameter schedulers."""

from __future__ import annotations

from typing import Any

from fvcore.common import param_scheduler as schedulers
from fvcore.common.config import CfgNode
from fvcore.common.param_scheduler import ParamScheduler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cliptrase_d2.utils.errors import check_choice


class WarmupParamScheduler(schedulers.CompositeParamScheduler):
    """A scheduler that is preceded by a linear or constant warm-up.

    Args:
        warmup_factor: first multiplier, as a fraction of the scheduler's first.
        warmup_length: fraction of the training, 0..1, that is warm-up.
        warmup_method: "linear" or "constant".
    """

    def __init__(
        self, scheduler: ParamScheduler, warmup_factor: float, warmup_length: float, warmup_method: str = "linear"
    ):
        start = warmup_factor * scheduler(0.0)
        check_choice("SOLVER.WARMUP_METHOD", warmup_method, ("linear", "constant"))
        end = scheduler(warmup_length) if warmup_method == "linear" else start
        warmup = schedulers.LinearParamScheduler(start, end)
        super().__init__([warmup, scheduler], [warmup_length, 1 - warmup_length], ["rescaled", "fixed"])


class LRMultiplier(LRScheduler):
    """Multiplies the initial learning rate of each parameter group by the value of a `ParamScheduler`."""

    def __init__(self, optimizer: Optimizer, multiplier: ParamScheduler, max_iter: int, last_iter: int = -1):
        self._multiplier, self._max_iter = multiplier, max_iter
        super().__init__(optimizer, last_epoch=last_iter)

    def state_dict(self) -> dict[str, Any]:
        """Return the state without the schedule, which is built from the config."""
        return {"base_lrs": self.base_lrs, "last_epoch": self.last_epoch}

    def get_lr(self) -> list[Any]:
        """Return the learning rate of each parameter group at this iteration."""
        return [base_lr * self._multiplier(self.last_epoch / self._max_iter) for base_lr in self.base_lrs]


def build_lr_scheduler(cfg: CfgNode, optimizer: Optimizer) -> LRMultiplier:
    """Build the schedule `cfg.SOLVER.LR_SCHEDULER_NAME` with its warm-up."""
    solver = cfg.SOLVER
    check_choice("SOLVER.LR_SCHEDULER_NAME", solver.LR_SCHEDULER_NAME, ("WarmupMultiStepLR", "WarmupCosineLR"))
    schedule: ParamScheduler
    if solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        steps = [step for step in solver.STEPS if step <= solver.MAX_ITER]
        values = [solver.GAMMA**k for k in range(len(steps) + 1)]
        schedule = schedulers.MultiStepParamScheduler(values, milestones=steps, num_updates=solver.MAX_ITER)
    else:
        schedule = schedulers.CosineParamScheduler(1, solver.BASE_LR_END / solver.BASE_LR)
    length = min(solver.WARMUP_ITERS / solver.MAX_ITER, 1.0)
    warm = WarmupParamScheduler(schedule, solver.WARMUP_FACTOR, length, solver.WARMUP_METHOD)
    return LRMultiplier(optimizer, warm, max_iter=solver.MAX_ITER)
