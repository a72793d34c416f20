"""Training loop and its hooks, as in `detectron2.engine`."""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from fvcore.common.checkpoint import PeriodicCheckpointer as _PeriodicCheckpointer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler as _TorchScheduler

from cliptrase_d2.d2.fallback import comm
from cliptrase_d2.d2.fallback.events import EventStorage, EventWriter
from cliptrase_d2.utils.errors import InputError

logger = logging.getLogger(__name__)


class HookBase:
    """Callbacks around the steps of a training; `trainer` is set when the hook is registered."""

    trainer: Any = None

    def before_train(self) -> None: ...
    def after_train(self) -> None: ...  # also after a step that failed
    def before_step(self) -> None: ...
    def after_step(self) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        """Return the state that `load_state_dict` restores when a training is resumed."""
        return {}


class TrainerBase:
    """Calls `run_step` and the hooks in each iteration."""

    def __init__(self) -> None:
        self._hooks: list[HookBase] = []
        self.iter = self.start_iter = 0
        self.max_iter: int
        self.storage: EventStorage

    def register_hooks(self, hooks: Iterable[HookBase | None]) -> None:
        """Add hooks, to be called in this order; None is skipped."""
        for hook in filter(None, hooks):
            hook.trainer = weakref.proxy(self)  # a strong reference would be a cycle that keeps both in memory
            self._hooks.append(hook)

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run the iterations `start_iter` .. `max_iter - 1`."""
        logger.info("Starting training from iteration %d", start_iter)
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        with EventStorage(start_iter) as self.storage:
            try:
                self._call_hooks("before_train")
                while self.iter < max_iter:
                    self.storage.iter = self.iter
                    self._call_hooks("before_step")
                    self.run_step()
                    self._call_hooks("after_step")
                    self.iter += 1  # reaches max_iter only on success, which after_train can check
            except InputError:  # reported once, by the caller
                raise
            except Exception:
                logger.exception("Exception during training:")
                raise
            finally:
                self.storage.iter = self.iter
                self._call_hooks("after_train")

    def _call_hooks(self, event: str) -> None:
        for hook in self._hooks:
            getattr(hook, event)()

    def run_step(self) -> None:
        """Run one iteration."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Return the last iteration that ran, and the state of each hook that has one."""
        states = {type(hook).__qualname__: hook.state_dict() for hook in self._hooks}
        return {"iteration": self.iter, "hooks": {name: state for name, state in states.items() if state}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a saved state; the training then continues at `iter + 1`."""
        self.iter = state_dict["iteration"]
        hooks: dict[str, Any] = {type(hook).__qualname__: hook for hook in self._hooks}
        for name, state in state_dict.get("hooks", {}).items():
            if name in hooks:
                hooks[name].load_state_dict(state)
            else:
                logger.warning("Cannot find the hook '%s', its state_dict is ignored.", name)


class IterationTimer(HookBase):
    """Records the seconds of each step after the first few, and logs the speed at the end; register it first."""

    def __init__(self, warmup_iter: int = 3):
        self._warmup_iter = warmup_iter
        self._seconds: list[float] = []

    def before_step(self) -> None:
        self._start = time.perf_counter()

    def after_step(self) -> None:
        seconds = time.perf_counter() - self._start
        if self.trainer.iter - self.trainer.start_iter + 1 >= self._warmup_iter:
            self._seconds.append(seconds)
            self.trainer.storage.put_scalar("time", seconds)

    def after_train(self) -> None:
        if self._seconds:
            total, steps = sum(self._seconds), len(self._seconds)
            logger.info("Overall training speed: %d iterations in %.0f s (%.4f s / it)", steps, total, total / steps)


class LRScheduler(HookBase):
    """Steps a scheduler after each iteration, and records the learning rate of the largest parameter group."""

    def __init__(self, optimizer: Optimizer, scheduler: _TorchScheduler):
        self._optimizer, self.scheduler = optimizer, scheduler

    def after_step(self) -> None:
        rate = max(self._optimizer.param_groups, key=lambda group: len(group["params"]))["lr"]
        self.trainer.storage.put_scalar("lr", rate, smoothing_hint=False)
        self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        return self.scheduler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the scheduler."""
        self.scheduler.load_state_dict(state_dict)


class PeriodicCheckpointer(_PeriodicCheckpointer, HookBase):
    """fvcore's checkpointer as a hook: saves every `period` iterations and after the last."""

    def before_train(self) -> None:
        self.max_iter = self.trainer.max_iter

    def after_step(self) -> None:
        self.step(self.trainer.iter)


class PeriodicWriter(HookBase):
    """Calls writers every `period` iterations and at the end."""

    def __init__(self, writers: Sequence[EventWriter], period: int = 20):
        self._writers, self._period = writers, period

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self._period == 0 or done == self.trainer.max_iter:
            for writer in self._writers:
                writer.write()

    def after_train(self) -> None:
        for writer in self._writers:
            writer.write()  # scalars that other hooks added after the last step
            writer.close()


class EvalHook(HookBase):
    """Evaluates every `eval_period` iterations (0: only at the end) and after the last; use it on all processes.

    Args:
        eval_function: returns numbers by name, possibly nested: {"sem_seg": {"mIoU": 50.0}}.
    """

    def __init__(self, eval_period: int, eval_function: Callable[[], Any], eval_after_train: bool = True):
        self._period, self._function, self._eval_after_train = eval_period, eval_function, eval_after_train

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self._period > 0 and done % self._period == 0 and done != self.trainer.max_iter:
            self._evaluate()

    def after_train(self) -> None:
        if self._eval_after_train and self.trainer.iter + 1 >= self.trainer.max_iter:  # less if the training failed
            self._evaluate()

    def _evaluate(self) -> None:
        for name, value in _flatten(self._function() or {}).items():
            self.trainer.storage.put_scalar(name, value, smoothing_hint=False)
        comm.synchronize()  # all processes begin the next step together


def _flatten(results: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Turn {"sem_seg": {"mIoU": 1}} into {"sem_seg/mIoU": 1.0}."""
    flat: dict[str, float] = {}
    for name, value in results.items():
        flat |= _flatten(value, f"{prefix}{name}/") if isinstance(value, dict) else {prefix + name: float(value)}
    return flat
