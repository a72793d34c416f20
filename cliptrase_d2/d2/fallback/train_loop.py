"""Serves `detectron2.engine.train_loop`: the loop, its hooks, and one step of training."""

from __future__ import annotations

import contextlib
import logging
import time
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cliptrase_d2.d2.fallback import comm
from cliptrase_d2.d2.fallback.events import EventStorage
from cliptrase_d2.utils.errors import InputError


class HookBase:
    """Something to do around the steps of a training; `trainer` is set when the hook is registered."""

    trainer: Any = None

    def before_train(self) -> None: ...
    def after_train(self) -> None: ...  # also after a step that failed
    def before_step(self) -> None: ...
    def after_backward(self) -> None: ...  # in each step between the gradients and the update
    def after_step(self) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs of this hook, for its `load_state_dict`."""
        return {}


class TrainerBase:
    """Calls `run_step` and the hooks for each iteration."""

    def __init__(self) -> None:
        self._hooks: list[HookBase] = []
        self.iter = self.start_iter = 0
        self.max_iter: int
        self.storage: EventStorage

    def register_hooks(self, hooks: Iterable[HookBase | None]) -> None:
        """Add hooks, which run in this order; None is skipped."""
        for hook in filter(None, hooks):
            hook.trainer = weakref.proxy(self)  # a real reference would be a circle that keeps both in memory
            self._hooks.append(hook)

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run the iterations `start_iter` .. `max_iter - 1`."""
        logger = logging.getLogger(__name__)
        logger.info("Starting training from iteration %d", start_iter)
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        with EventStorage(start_iter) as self.storage:
            try:
                self._tell_hooks("before_train")
                while self.iter < max_iter:
                    self.storage.iter = self.iter
                    self._tell_hooks("before_step")
                    self.run_step()
                    self._tell_hooks("after_step")
                    self.iter += 1  # reaches max_iter after success only, which after_train can tell by
            except InputError:  # said once, by whoever takes it
                raise
            except Exception:
                logger.exception("Exception during training:")
                raise
            finally:
                self.storage.iter = self.iter
                self._tell_hooks("after_train")

    def _tell_hooks(self, event: str) -> None:
        for hook in self._hooks:
            getattr(hook, event)()

    def run_step(self) -> None:
        """One iteration."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """The last iteration that ran, and the state of each hook that has one."""
        states = {type(hook).__qualname__: hook.state_dict() for hook in self._hooks}
        return {"iteration": self.iter, "hooks": {name: state for name, state in states.items() if state}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take on a saved state; the training then goes on at `iter + 1`."""
        self.iter = state_dict["iteration"]
        hooks: dict[str, Any] = {type(hook).__qualname__: hook for hook in self._hooks}
        for name, state in state_dict.get("hooks", {}).items():
            if name in hooks:
                hooks[name].load_state_dict(state)
            else:
                logging.getLogger(__name__).warning("Cannot find the hook '%s', its state_dict is ignored.", name)


class SimpleTrainer(TrainerBase):
    """One model that returns its losses, one source of data, one optimizer."""

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Any],
        optimizer: torch.optim.Optimizer,
        gather_metric_period: int = 1,
    ):
        super().__init__()
        model.train()
        self.model, self.data_loader, self.optimizer = model, data_loader, optimizer
        self.gather_metric_period = gather_metric_period
        self._iterator: Iterator[Any] | None = None

    def run_step(self) -> None:
        """Losses, gradients, update."""
        if not self.model.training:
            raise AssertionError(f"[{type(self).__name__}] model was changed to eval mode!")
        start = time.perf_counter()
        self._iterator = self._iterator or iter(self.data_loader)
        data = next(self._iterator)
        data_time = time.perf_counter() - start
        with self._precision():
            losses = self.model(data)
        losses = {"total_loss": losses} if isinstance(losses, Tensor) else losses
        self.optimizer.zero_grad()
        self._backward(sum(losses.values()))
        self._tell_hooks("after_backward")
        if (self.iter + 1) % self.gather_metric_period == 0:
            self._write_metrics(losses, data_time)
        self._update()

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext()

    def _backward(self, loss: Any) -> None:
        loss.backward()

    def _update(self) -> None:
        self.optimizer.step()

    def _write_metrics(self, losses: dict[str, Tensor], data_time: float) -> None:
        """Put the mean of each loss over the processes, and the longest wait for data, into the storage."""
        gathered = comm.gather({name: loss.detach().item() for name, loss in losses.items()} | {"data_time": data_time})
        if not comm.is_main_process():
            return
        self.storage.put_scalar("data_time", max(metrics.pop("data_time") for metrics in gathered))
        means = {name: float(np.mean([metrics[name] for metrics in gathered])) for name in gathered[0]}
        if not np.isfinite(sum(means.values())):
            raise FloatingPointError(f"Loss became infinite or NaN at iteration={self.iter}!\nloss_dict = {means}")
        self.storage.put_scalar("total_loss", sum(means.values()))
        if len(means) > 1:
            for name, mean in means.items():
                self.storage.put_scalar(name, mean)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])


class AMPTrainer(SimpleTrainer):
    """`SimpleTrainer` in mixed precision on the model's own device, which may be the CPU here."""

    def __init__(self, *args: Any, precision: torch.dtype = torch.float16, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._device = next(self.model.parameters()).device.type
        self.grad_scaler = torch.amp.GradScaler(self._device)
        self.precision = precision

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self._device, dtype=self.precision)

    def _backward(self, loss: Any) -> None:
        self.grad_scaler.scale(loss).backward()

    def _update(self) -> None:
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
