from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from cliptrase_d2.d2.fallback import hooks
from cliptrase_d2.d2.fallback.events import get_event_storage
from cliptrase_d2.d2.safe_checkpoint import DataOnly
from cliptrase_d2.utils.errors import InputError
from tests.d2.fallback.conftest import BACKENDS


class ToyStep:
    """Mixin for a `TrainerBase`: fits a line to y = 3x with momentum, so that a step depends on all earlier ones."""

    def __init__(self, start: int = 0, fail_at: int = -1):
        super().__init__()
        self.model = nn.Linear(1, 1)
        self.model.load_state_dict({"weight": torch.zeros(1, 1), "bias": torch.zeros(1)})
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        self.data = (torch.tensor([1.0 + step % 3]) for step in itertools.count(start))
        self.fail_at = fail_at

    def run_step(self) -> None:
        if self.iter == self.fail_at:
            raise RuntimeError("out of memory")
        x = next(self.data)
        loss = (self.model(x) - 3 * x).square().sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.storage.put_scalar("total_loss", loss.item(), smoothing_hint=False)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.optimizer.load_state_dict(state["optimizer"])


def _build(backend: SimpleNamespace, folder: Path, max_iter: int, **options: int) -> Any:
    """Build a trainer with all hooks and a checkpointer."""
    folder.mkdir(exist_ok=True)
    cfg = backend.config.get_cfg()
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.STEPS = max_iter, 2, (4,)
    trainer = type("ToyTrainer", (ToyStep, backend.hooks.TrainerBase), {})(**options)
    checkpointer_class = type("ToyCheckpointer", (DataOnly, backend.Checkpointer), {})
    trainer.checkpointer = checkpointer_class(trainer.model, str(folder), trainer=trainer)
    events, hooks = backend.events, backend.hooks
    writers = [events.CommonMetricPrinter(max_iter), events.JSONWriter(str(folder / "metrics.json"))]
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(trainer.optimizer, backend.solver.build_lr_scheduler(cfg, trainer.optimizer)),
            None,
            hooks.EvalHook(2, lambda: {"sem_seg": {"mIoU": 50}}),
            hooks.PeriodicCheckpointer(trainer.checkpointer, 3),
            hooks.PeriodicWriter(writers, period=1),
        ]
    )
    return trainer


def _read_metrics(folder: Path, name: str) -> dict[int, float]:
    """Return a scalar by iteration."""
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return {line["iteration"]: line[name] for line in lines if name in line}


def test_hooks_write_save_and_evaluate_in_five_iterations(backend: SimpleNamespace, tmp_path: Path) -> None:
    trainer = _build(backend, tmp_path, 5)
    trainer.train(0, 5)
    assert trainer.iter == 5
    assert {path.name for path in tmp_path.glob("*.pth")} == {"model_0000002.pth", "model_final.pth"}
    losses = _read_metrics(tmp_path, "total_loss")
    assert list(losses) == [0, 1, 2, 3, 4]
    assert losses[0] == 9.0
    assert _read_metrics(tmp_path, "sem_seg/mIoU") == {1: 50, 3: 50, 5: 50}


@pytest.mark.parametrize(("first", "second"), [*itertools.product(BACKENDS, BACKENDS)])
def test_a_training_resumed_on_either_backend_equals_an_uninterrupted_one(
    first: str, second: str, tmp_path: Path
) -> None:
    complete = _build(BACKENDS["fallback"], tmp_path / "complete", 6)
    complete.train(0, 6)
    with pytest.raises(RuntimeError, match="out of memory"):
        _build(BACKENDS[first], tmp_path / "parts", 6, fail_at=4).train(0, 6)  # after the checkpoint of iteration 2
    resumed = _build(BACKENDS[second], tmp_path / "parts", 6, start=3)
    resumed.checkpointer.resume_or_load("", resume=True)
    assert resumed.iter == 2
    resumed.train(resumed.iter + 1, 6)
    assert torch.equal(resumed.model.weight, complete.model.weight)
    for name in ("lr", "total_loss"):
        assert _read_metrics(tmp_path / "parts", name) == _read_metrics(tmp_path / "complete", name)


def test_hooks_are_called_in_order(backend: SimpleNamespace) -> None:
    calls: list[tuple[str, int, int]] = []

    def record(name: str) -> Any:
        return lambda hook: calls.append((name, hook.trainer.iter, backend.events.get_event_storage().iter))

    trainer = type("ToyTrainer", (ToyStep, backend.hooks.TrainerBase), {})()
    events = ("before_train", "before_step", "after_step", "after_train")
    recorder = type("Recorder", (backend.hooks.HookBase,), {name: record(name) for name in events})
    trainer.register_hooks([recorder()])
    trainer.train(7, 8)
    assert calls == [("before_train", 7, 7), ("before_step", 7, 7), ("after_step", 7, 7), ("after_train", 8, 8)]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(hooks.logger.manager.getLogger("cliptrase_d2"), "propagate", True)
    return caplog


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), InputError("a.png", "16 bits", "Convert it.")])
def test_a_failed_training_ends_its_hooks_without_evaluation(error: Exception, log: pytest.LogCaptureFixture) -> None:
    evaluations: list[int] = []

    class Failing(hooks.TrainerBase):
        def run_step(self) -> None:
            raise error

    trainer = Failing()
    trainer.register_hooks([hooks.EvalHook(0, lambda: evaluations.append(1))])
    with pytest.raises(type(error), match=str(error)):
        trainer.train(0, 3)
    assert not evaluations
    with pytest.raises(AssertionError):
        get_event_storage()  # the storage is closed
    # The caller reports an InputError, so the log has no traceback of it.
    assert ("Exception during training" in log.text) == isinstance(error, RuntimeError)


def test_the_learning_rate_of_the_largest_group_is_recorded(backend: SimpleNamespace) -> None:
    weights = [nn.Parameter(torch.zeros(1)) for _ in range(3)]
    optimizer = torch.optim.SGD([{"params": weights[:1], "lr": 0.5}, {"params": weights[1:], "lr": 0.25}], lr=1.0)
    trainer = backend.hooks.TrainerBase()
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    trainer.run_step = lambda: optimizer.step()
    trainer.register_hooks([backend.hooks.LRScheduler(optimizer, schedule)])
    trainer.train(0, 1)
    assert trainer.storage.latest_with_smoothing_hint()["lr"] == (0.25, 0)


def test_the_state_of_a_missing_hook_is_ignored_with_a_warning(log: pytest.LogCaptureFixture) -> None:
    trainer = hooks.TrainerBase()
    trainer.load_state_dict({"iteration": 4, "hooks": {"Gone": {"a": 1}}})
    assert trainer.iter == 4
    assert "Gone" in log.text
