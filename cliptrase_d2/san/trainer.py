"""Training step of SAN, with gradient accumulation and the state for bit-exact resuming."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cliptrase_d2.d2 import TrainerBase, comm
from cliptrase_d2.san.checkpoints import AtomicCheckpointer
from cliptrase_d2.san.model import SAN
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.tensors import autocast
from cliptrase_d2.utils.workers import explain_worker_deaths

TRAINING_IMAGES = "the images to train on"  # for error messages
_LARGEST_SEED = 2**63


class NonFiniteLossError(FloatingPointError):
    """A loss became infinite or NaN. The weights are those before the step."""


class SANTrainer(TrainerBase):
    """Detectron2's training loop with SAN's training step.

    The random numbers of a step depend only on the seed, the iteration and the process, so no generator state is saved.

    Args:
        model: SAN, or its distributed wrapper.
        optimizer: of the model's parameters.
        folder: of the checkpoints.
        seed: of the steps.
        parts: number of parts into which each batch is split.
        gradient_limit: largest total norm of the gradients; None for no limit.
        precision: arithmetic of the forward pass.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        folder: str,
        *,
        seed: int,
        parts: int = 1,
        gradient_limit: float | None = None,
        precision: torch.dtype = torch.float32,
    ):
        super().__init__()
        self.model, self.optimizer = model, optimizer
        self.seed, self.parts, self.gradient_limit, self.precision = seed, parts, gradient_limit, precision
        self.checkpointer = AtomicCheckpointer(self.san, folder, trainer=self)
        self.batches: Iterator[list[dict[str, Any]]] = iter(())
        self._scaler = torch.amp.GradScaler(self.san.device.type, enabled=precision == torch.float16)

    @property
    def san(self) -> SAN:
        """The model without its distributed wrapper."""
        inner = self.model.module if isinstance(self.model, DistributedDataParallel) else self.model
        assert isinstance(inner, SAN)
        return inner

    @property
    def last_checkpoint(self) -> str:
        """The newest checkpoint, or "none yet"."""
        return self.checkpointer.get_checkpoint_file() or "none yet"

    @explain_worker_deaths(TRAINING_IMAGES)  # PyTorch can raise the error at any line
    def run_step(self) -> None:
        """Compute losses and gradients and update the parameters.

        Raises:
            NonFiniteLossError: with the iteration, the images and the last good checkpoint.
            InputError: a reading process died.
        """
        start = time.perf_counter()
        batch = next(self.batches)
        data_time = time.perf_counter() - start
        self.model.train()
        seed_step(self.seed, self.iter)
        self.optimizer.zero_grad(set_to_none=True)
        losses = self._accumulate_gradients(batch)
        if not all(math.isfinite(value) for value in losses.values()):
            values = ", ".join(f"{name} {value:g}" for name, value in losses.items())
            files = ", ".join(str(inputs["file_name"]) for inputs in batch)
            raise NonFiniteLossError(
                f"iteration {self.iter}: a loss is infinite or NaN ({values}); "
                f"images: {files}; last good checkpoint: {self.last_checkpoint}"
            )
        if self.gradient_limit is not None:
            self._scaler.unscale_(self.optimizer)
            parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, self.gradient_limit)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self._log_losses(losses, data_time)

    def _accumulate_gradients(self, batch: Sequence[dict[str, Any]]) -> dict[str, float]:
        """Add up the gradients and losses of the parts of a batch."""
        normalizers = self.san.compute_normalizers([inputs["num_masks"] for inputs in batch])
        totals: dict[str, float] = {}
        for index in range(self.parts):
            is_early = index < self.parts - 1 and isinstance(self.model, DistributedDataParallel)
            with self.model.no_sync() if is_early else contextlib.nullcontext():  # type: ignore[operator]
                with autocast(self.san.device, self.precision):
                    losses = self.model(batch[index :: self.parts], normalizers)
                values = torch.stack(list(losses.values()))
                self._scaler.scale(values.sum()).backward()
            totals = {name: totals.get(name, 0.0) + value for name, value in zip(losses, values.tolist(), strict=True)}
        return totals

    def _log_losses(self, losses: dict[str, float], data_time: float) -> None:
        """Store the losses averaged over the processes, and the longest wait for data."""
        gathered = comm.gather((losses, data_time))
        if comm.is_main_process():
            means = {name: float(np.mean([values[name] for values, _ in gathered])) for name in losses}
            longest = max(seconds for _, seconds in gathered)
            for name, value in {"data_time": longest, "total_loss": sum(means.values()), **means}.items():
                self.storage.put_scalar(name, value)

    def state_dict(self) -> dict[str, Any]:
        """Return the state on which the next step depends, without the model and the data."""
        state = {"optimizer": self.optimizer.state_dict(), "scaler": self._scaler.state_dict(), "seed": self.seed}
        return super().state_dict() | state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a saved state; training continues at ``iter + 1``.

        Raises:
            InputError: the state is that of another trainer.
        """
        if "seed" not in state_dict:
            fix = "Name it in MODEL.WEIGHTS, without --resume and with a new OUTPUT_DIR."
            raise InputError(self.last_checkpoint, "a checkpoint of another trainer, which cannot be resumed", fix)
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self._scaler.load_state_dict(state_dict["scaler"])
        self.seed = state_dict["seed"]


def seed_step(seed: int, iteration: int) -> None:
    """Seed PyTorch for one step of this process."""
    high, low = np.random.SeedSequence((seed, iteration, comm.get_rank())).generate_state(2, np.uint32).tolist()
    torch.manual_seed((high << 32 | low) % _LARGEST_SEED)
