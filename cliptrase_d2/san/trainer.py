"""One step of training, in parts where memory is short, and the state that makes a resumed training the same."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cliptrase_d2.d2 import TrainerBase, comm
from cliptrase_d2.san.criterion import Totals
from cliptrase_d2.san.model import SAN
from cliptrase_d2.utils.precision import autocast
from cliptrase_d2.utils.workers import explain_worker_deaths

TRAINING_IMAGES = "the images to train on"  # what reading processes read, in messages
_LARGEST_SEED = 2**63


class NonFiniteLossError(FloatingPointError):
    """A loss became infinite or NaN; the weights are those before the step."""


class SANTrainer(TrainerBase):
    """Detectron2's loop around the training steps of SAN.

    The random numbers of a step are a function of the seed, the iteration and the process, so that nothing of them
    has to be saved.

    Args:
        model: SAN, or its data parallel wrapper.
        optimizer: of its parameters.
        seed: of the steps.
        parts: into how many parts a batch is taken.
        gradient_limit: largest norm of the gradients in all; None for no limit.
        precision: arithmetic of the forward pass.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        seed: int,
        parts: int = 1,
        gradient_limit: float | None = None,
        precision: torch.dtype = torch.float32,
    ):
        super().__init__()
        self.model, self.optimizer = model, optimizer
        self.seed, self.parts, self.gradient_limit, self.precision = seed, parts, gradient_limit, precision
        self.last_checkpoint = ""
        self.batches: Iterator[list[dict[str, Any]]] = iter(())
        self._scaler = torch.amp.GradScaler(self.san.device.type, enabled=precision == torch.float16)

    @property
    def san(self) -> SAN:
        """The model itself."""
        inner = self.model.module if isinstance(self.model, DistributedDataParallel) else self.model
        assert isinstance(inner, SAN)
        return inner

    def run_step(self) -> None:
        """Losses, gradients, update.

        Raises:
            NonFiniteLossError: naming the iteration, the images and the last good checkpoint.
            InputError: a reading process died.
        """
        with explain_worker_deaths(TRAINING_IMAGES):  # PyTorch's error may come at any line
            self._step()

    def _step(self) -> None:
        began = time.perf_counter()
        batch = next(self.batches)
        waited = time.perf_counter() - began
        self.model.train()
        seed_step(self.seed, self.iter)
        self.optimizer.zero_grad(set_to_none=True)
        losses = self._gradients(batch)
        self._require_finite(losses, batch)
        if self.gradient_limit is not None:
            self._scaler.unscale_(self.optimizer)
            trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
            torch.nn.utils.clip_grad_norm_(trained, self.gradient_limit)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self._note(losses, waited)

    def _gradients(self, batch: Sequence[dict[str, Any]]) -> dict[str, float]:
        """Add up the gradients of the parts of a batch, and their losses."""
        totals = self._totals(batch)
        losses: dict[str, float] = {}
        parts = [batch[part :: self.parts] for part in range(self.parts)]
        for index, part in enumerate(parts):
            waits = index < len(parts) - 1 and isinstance(self.model, DistributedDataParallel)
            with self.model.no_sync() if waits else contextlib.nullcontext():  # type: ignore[operator]
                with autocast(self.san.device, self.precision):
                    found: dict[str, Tensor] = self.model(part, totals)
                self._scaler.scale(torch.stack(list(found.values())).sum()).backward()
            values = torch.stack(list(found.values())).tolist()
            losses = {name: losses.get(name, 0.0) + value for name, value in zip(found, values, strict=True)}
        return losses

    def _totals(self, batch: Sequence[dict[str, Any]]) -> Totals:
        """Divisors of the whole batch; of masks their mean over all processes."""
        criterion = self.san.criterion
        assert criterion is not None, "a model that is trained has a criterion"
        counts = [given["num_masks"] for given in batch]
        own = criterion.totals(counts, self.san.side_adapter_network.query_embed.shape[1])
        everywhere = comm.all_gather(sum(counts))
        return Totals(max(1.0, sum(everywhere) / len(everywhere)), own.label_weight)

    def _require_finite(self, losses: dict[str, float], batch: Sequence[dict[str, Any]]) -> None:
        if all(math.isfinite(value) for value in losses.values()):
            return
        shown = ", ".join(f"{name} {value:g}" for name, value in losses.items())
        files = ", ".join(str(given["file_name"]) for given in batch)
        saved = self.last_checkpoint or "none yet"
        raise NonFiniteLossError(
            f"iteration {self.iter}: a loss is infinite or NaN ({shown}); "
            f"images: {files}; last good checkpoint: {saved}"
        )

    def _note(self, losses: dict[str, float], waited: float) -> None:
        """Put the means over the processes into the storage, and the longest wait for data."""
        gathered = comm.gather((losses, waited))
        if not comm.is_main_process():
            return
        self.storage.put_scalar("data_time", max(wait for _, wait in gathered))
        means = {name: float(np.mean([values[name] for values, _ in gathered])) for name in losses}
        self.storage.put_scalar("total_loss", sum(means.values()))
        for name, mean in means.items():
            self.storage.put_scalar(name, mean)

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on, but for the model and the data."""
        return {
            **super().state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "seed": self.seed,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take on a saved state; the training goes on at ``iter + 1``."""
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self._scaler.load_state_dict(state_dict["scaler"])
        self.seed = state_dict["seed"]


def seed_step(seed: int, iteration: int) -> None:
    """Seed PyTorch for one step of this process."""
    words = np.random.SeedSequence((seed, iteration, comm.get_rank())).generate_state(2, np.uint32).tolist()
    torch.manual_seed((words[0] << 32 | words[1]) % _LARGEST_SEED)
