"""Serves `detectron2.engine.hooks`: what most trainings do around their steps."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from fvcore.common.checkpoint import PeriodicCheckpointer as _PeriodicCheckpointer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler as _TorchScheduler

from cliptrase_d2.d2.fallback import comm
from cliptrase_d2.d2.fallback.events import EventWriter
from cliptrase_d2.d2.fallback.train_loop import HookBase


class IterationTimer(HookBase):
    """Records the seconds of each step, without the first few, and logs the speed at the end; put it first."""

    def __init__(self, warmup_iter: int = 3):
        self._warmup_iter = warmup_iter
        self._seconds: list[float] = []

    def before_step(self) -> None:
        self._start = time.perf_counter()

    def after_step(self) -> None:
        seconds = time.perf_counter() - self._start
        if self.trainer.iter - self.trainer.start_iter + 1 >= self._warmup_iter:
            self._seconds.append(seconds)
            self.trainer.storage.put_scalars(time=seconds)

    def after_train(self) -> None:
        if self._seconds:
            total, steps = sum(self._seconds), len(self._seconds)
            text = "Overall training speed: %d iterations in %.0f s (%.4f s / it)"
            logging.getLogger(__name__).info(text, steps, total, total / steps)


class LRScheduler(HookBase):
    """Steps a learning rate scheduler (the trainer's, if none is given) after each iteration and records the rate."""

    def __init__(self, optimizer: Optimizer | None = None, scheduler: _TorchScheduler | None = None):
        self._optimizer, self._scheduler = optimizer, scheduler

    @property
    def scheduler(self) -> _TorchScheduler:
        """The scheduler in use."""
        return self._scheduler or self.trainer.scheduler

    def after_step(self) -> None:
        """Record the rate of the group with the most parameters or, if each has one, the commonest rate."""
        groups = (self._optimizer or self.trainer.optimizer).param_groups
        largest = max(groups, key=lambda group: len(group["params"]))
        commonest = Counter(group["lr"] for group in groups).most_common(1)[0][0]
        rate = largest["lr"] if len(largest["params"]) > 1 else commonest
        self.trainer.storage.put_scalar("lr", rate, smoothing_hint=False)
        self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        return self.scheduler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Give the scheduler its saved state."""
        self.scheduler.load_state_dict(state_dict)


class PeriodicCheckpointer(_PeriodicCheckpointer, HookBase):
    """fvcore's, as a hook: saves every `period` iterations and after the last."""

    def before_train(self) -> None:
        self.max_iter = self.trainer.max_iter

    def after_step(self) -> None:
        self.step(self.trainer.iter)


class PeriodicWriter(HookBase):
    """Lets writers write every `period` iterations and at the end."""

    def __init__(self, writers: Sequence[EventWriter], period: int = 20):
        self._writers, self._period = writers, period

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self._period == 0 or done == self.trainer.max_iter:
            for writer in self._writers:
                writer.write()

    def after_train(self) -> None:
        for writer in self._writers:
            writer.write()  # what other hooks left
            writer.close()


class EvalHook(HookBase):
    """Evaluates every `eval_period` iterations (0: never in between) and after the last; use it on all processes.

    Args:
        eval_function: returns numbers by name, in nested dictionaries if need be: {"sem_seg": {"mIoU": 50.0}}.
    """

    def __init__(self, eval_period: int, eval_function: Callable[[], Any], eval_after_train: bool = True):
        self._period, self._function, self._eval_after_train = eval_period, eval_function, eval_after_train

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self._period > 0 and done % self._period == 0 and done != self.trainer.max_iter:
            self._evaluate()

    def after_train(self) -> None:
        if self._eval_after_train and self.trainer.iter + 1 >= self.trainer.max_iter:  # less: the training failed
            self._evaluate()

    def _evaluate(self) -> None:
        numbers = _flatten(self._function() or {})
        self.trainer.storage.put_scalars(**numbers, smoothing_hint=False)
        comm.synchronize()  # so that the processes begin the next step together


def _flatten(results: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """{"sem_seg": {"mIoU": 1}} as {"sem_seg/mIoU": 1.0}."""
    flat: dict[str, float] = {}
    for name, value in results.items():
        flat |= _flatten(value, f"{prefix}{name}/") if isinstance(value, dict) else {prefix + name: float(value)}
    return flat
