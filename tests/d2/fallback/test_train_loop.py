from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cliptrase_d2.d2 import DetectionCheckpointer
from cliptrase_d2.d2.fallback import hooks
from cliptrase_d2.d2.fallback.config import get_cfg
from cliptrase_d2.d2.fallback.events import CommonMetricPrinter, JSONWriter, get_event_storage
from cliptrase_d2.d2.fallback.solver import build_lr_scheduler
from cliptrase_d2.d2.fallback.train_loop import AMPTrainer, HookBase, SimpleTrainer, TrainerBase


class Toy(nn.Module):
    """A line through the origin; returns two losses."""

    def __init__(self, slope: float = 0.0):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))

    def forward(self, data: Tensor) -> dict[str, Tensor]:
        return {"loss_fit": (self.slope * data - 3 * data).square(), "loss_size": 0.01 * self.slope.square()}


def _data(start: int = 0) -> Iterator[Tensor]:
    return (torch.tensor(1.0 + i % 3) for i in itertools.count(start))


def _trainer(folder: Path, max_iter: int, start: int = 0, trainer_class: type[SimpleTrainer] = SimpleTrainer) -> Any:
    """A trainer as train_net.py makes it, and its checkpointer."""
    folder.mkdir(exist_ok=True)
    cfg = get_cfg()
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.STEPS = max_iter, 2, (4,)
    model = Toy()
    trainer: Any = trainer_class(model, _data(start), torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9))
    trainer.scheduler = build_lr_scheduler(cfg, trainer.optimizer)
    checkpointer = DetectionCheckpointer(model, str(folder), trainer=trainer)
    writers = [CommonMetricPrinter(max_iter), JSONWriter(str(folder / "metrics.json"))]
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(),
            None,
            hooks.EvalHook(2, lambda: {"sem_seg": {"mIoU": 50}}),
            hooks.PeriodicCheckpointer(checkpointer, 3),
            hooks.PeriodicWriter(writers, period=1),
        ]
    )
    return trainer, checkpointer


def _lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


def test_the_first_step_is_that_of_the_formula() -> None:
    model = Toy(slope=1.0)
    SimpleTrainer(model, [torch.tensor(2.0)], torch.optim.SGD(model.parameters(), lr=0.1)).train(0, 1)
    # d/ds [(2s - 6)^2 + 0.01 s^2] at 1 is 2*2*(-4) + 0.02 = -15.98
    assert model.slope.item() == pytest.approx(1 + 1.598)


def test_five_iterations_write_check_and_evaluate(tmp_path: Path) -> None:
    trainer, _ = _trainer(tmp_path, 5)
    trainer.train(0, 5)
    assert trainer.iter == 5
    assert {path.name for path in tmp_path.glob("*.pth")} == {"model_0000002.pth", "model_final.pth"}
    lines = _lines(tmp_path)
    losses = [line for line in lines if "total_loss" in line]
    assert [line["iteration"] for line in losses] == [0, 1, 2, 3, 4]
    assert losses[0]["total_loss"] == 9.0
    assert [line["iteration"] for line in lines if "sem_seg/mIoU" in line] == [1, 3, 5]


def test_a_resumed_training_ends_where_an_unbroken_one_does(tmp_path: Path) -> None:
    unbroken, _ = _trainer(tmp_path / "a", 6)
    unbroken.train(0, 6)
    broken, _ = _trainer(tmp_path / "b", 6)
    broken.data_loader = itertools.islice(_data(), 4)  # the data end after the checkpoint of iteration 2
    with pytest.raises(StopIteration):
        broken.train(0, 6)
    resumed, checkpointer = _trainer(tmp_path / "b", 6, start=3)
    checkpointer.resume_or_load("", resume=True)
    assert resumed.iter == 2
    resumed.train(resumed.iter + 1, 6)
    assert resumed.model.slope.item() == unbroken.model.slope.item()
    rates = {line["iteration"]: line["lr"] for line in _lines(tmp_path / "b") if "lr" in line}
    assert rates == {line["iteration"]: line["lr"] for line in _lines(tmp_path / "a") if "lr" in line}


def test_hooks_are_called_in_order() -> None:
    calls: list[str] = []

    class Recorder(HookBase):
        def before_train(self) -> None:
            calls.append("before_train")

        def before_step(self) -> None:
            calls.append(f"before_step {self.trainer.iter}")

        def after_backward(self) -> None:
            calls.append(f"gradient {self.trainer.model.slope.grad.item():.0f}")

        def after_step(self) -> None:
            calls.append(f"after_step {get_event_storage().iter}")

        def after_train(self) -> None:
            calls.append(f"after_train {self.trainer.iter}")

    model = Toy()
    trainer = SimpleTrainer(model, [torch.tensor(1.0)], torch.optim.SGD(model.parameters(), lr=0.1))
    trainer.register_hooks([Recorder()])
    trainer.train(7, 8)
    assert calls == ["before_train", "before_step 7", "gradient -6", "after_step 7", "after_train 8"]


def test_a_failed_training_ends_its_hooks_but_does_not_evaluate() -> None:
    evaluated: list[int] = []

    class Failing(TrainerBase):
        def run_step(self) -> None:
            raise RuntimeError("out of memory")

    trainer = Failing()
    trainer.register_hooks([hooks.EvalHook(0, lambda: evaluated.append(1))])
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.train(0, 3)
    assert not evaluated
    with pytest.raises(AssertionError):
        get_event_storage()  # the storage is closed


def test_a_loss_that_is_no_number_stops_the_training() -> None:
    model = Toy(slope=float("nan"))
    trainer = SimpleTrainer(model, _data(), torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(FloatingPointError, match="iteration=0"):
        trainer.train(0, 1)


def test_a_model_left_in_evaluation_mode_is_noticed() -> None:
    model = Toy()
    trainer = SimpleTrainer(model, _data(), torch.optim.SGD(model.parameters(), lr=0.1))
    model.eval()
    with pytest.raises(AssertionError, match="eval mode"):
        trainer.train(0, 1)


def test_the_rate_of_the_largest_group_is_recorded() -> None:
    weights = [nn.Parameter(torch.zeros(1)) for _ in range(3)]
    optimizer = torch.optim.SGD([{"params": weights[:1], "lr": 0.5}, {"params": weights[1:], "lr": 0.25}], lr=1.0)
    trainer: Any = TrainerBase()
    trainer.run_step = lambda: optimizer.step()
    trainer.register_hooks([hooks.LRScheduler(optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0))])
    trainer.train(0, 1)
    assert trainer.storage.latest()["lr"] == (0.25, 0)


def test_mixed_precision_trains_on_the_cpu_and_keeps_its_scale(tmp_path: Path) -> None:
    trainer, checkpointer = _trainer(tmp_path, 3, trainer_class=AMPTrainer)
    trainer.train(0, 3)
    assert trainer.model.slope.item() > 0
    checkpointer.resume_or_load("", resume=True)
    assert "grad_scaler" in trainer.state_dict()


def test_the_state_of_a_hook_that_is_gone_is_passed_over() -> None:
    trainer = TrainerBase()
    trainer.load_state_dict({"iteration": 4, "hooks": {"Gone": {"a": 1}}})
    assert trainer.iter == 4
