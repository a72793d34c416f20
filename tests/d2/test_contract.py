"""Both sides of the door, fed the same, must give the same."""

from __future__ import annotations

import importlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cliptrase_d2.d2 import backend as side
from cliptrase_d2.d2.safe_checkpoint import DataOnly

if not side.is_installed():
    pytest.skip("Detectron2 is not installed, so there is nothing to compare", allow_module_level=True)

# Where each name of the contract is found.
_MODULES = {
    "config": ("detectron2.config", "config"),
    "configurable": ("detectron2.config", "configurable"),
    "catalog": ("detectron2.data.catalog", "catalog"),
    "checkpoint": ("detectron2.checkpoint", "checkpoint"),
    "events": ("detectron2.utils.events", "events"),
    "hooks": ("detectron2.engine.hooks", "hooks"),
    "images": ("detectron2.structures", "structures"),
    "setup": ("detectron2.engine", "setup"),
    "solver": ("detectron2.solver", "solver"),
    "train": ("detectron2.engine", "train_loop"),
}


def _side(index: int) -> SimpleNamespace:
    prefix = "cliptrase_d2.d2.fallback." if index else ""
    return SimpleNamespace(**{key: importlib.import_module(prefix + names[index]) for key, names in _MODULES.items()})


@pytest.fixture(scope="module")
def theirs() -> SimpleNamespace:
    return _side(0)


@pytest.fixture(scope="module")
def ours() -> SimpleNamespace:
    return _side(1)


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def test_each_key_has_the_same_default(theirs: SimpleNamespace, ours: SimpleNamespace) -> None:
    our_keys, their_keys = dict(_leaves(ours.config.get_cfg())), dict(_leaves(theirs.config.get_cfg()))
    del our_keys["MODEL.DEVICE"]  # by design: ours is one that the machine has
    assert our_keys == {key: their_keys.get(key, "missing") for key in our_keys}
    assert {type(value) for value in our_keys.values()} <= {type(their_keys[key]) for key in our_keys}


def test_images_are_padded_alike(theirs: SimpleNamespace, ours: SimpleNamespace) -> None:
    images = [torch.rand(3, 5, 9), torch.rand(3, 8, 2)]
    for count, divisor, pad in itertools.product((1, 2), (0, 1, 4, 32), (0.0, 255.0)):
        first = theirs.images.ImageList.from_tensors(images[:count], divisor, pad)
        second = ours.images.ImageList.from_tensors(images[:count], divisor, pad)
        assert torch.equal(first.tensor, second.tensor)
        assert first.image_sizes == second.image_sizes


def test_instances_keep_and_choose_alike(theirs: SimpleNamespace, ours: SimpleNamespace) -> None:
    def found(structures: Any) -> list[Any]:
        instances = structures.Instances((4, 6), scores=torch.tensor([0.2, 0.9, 0.5]))
        instances.pred_boxes = structures.Boxes(torch.arange(12).view(3, 4))
        failures = []
        for attempt in (
            lambda: instances.set("pred_classes", torch.zeros(2)),
            lambda: instances.labels,
            lambda: len(structures.Instances((4, 6))),
        ):
            with pytest.raises((AssertionError, AttributeError, NotImplementedError)) as caught:
                attempt()
            failures.append(caught.type)
        sure = instances[instances.scores > 0.4].to("cpu")
        fields = {name: getattr(value, "tensor", value).tolist() for name, value in sure.get_fields().items()}
        return [fields, len(sure), sure.image_size, sure.has("scores"), sure.has("labels"), failures]

    assert found(theirs.images) == found(ours.images)


def test_catalogs_fail_alike(theirs: SimpleNamespace, ours: SimpleNamespace) -> None:
    def failures(catalog: Any) -> list[str]:
        datasets, metadata = type(catalog.DatasetCatalog)(), type(catalog.MetadataCatalog)()
        datasets.register("a", list)
        metadata.get("a").set(x=1)
        found = []
        for attempt in (
            lambda: datasets.get("b"),
            lambda: datasets.register("a", list),
            lambda: datasets.register("c", []),
            lambda: setattr(metadata.get("a"), "x", 2),
        ):
            with pytest.raises((KeyError, AssertionError)) as error:
                attempt()
            found.append(repr(error.value))
        return [*found, str(datasets.list()), str(metadata.list()), str(metadata.get("a").as_dict())]

    assert failures(ours.catalog) == failures(theirs.catalog)


def test_parsers_read_the_same(theirs: SimpleNamespace, ours: SimpleNamespace) -> None:
    for words in ("", "--eval-only --resume --num-gpus 2 --config-file a.yaml SEED 3 --x", "--machine-rank 1 A b"):
        first, second = (s.setup.default_argument_parser().parse_args(words.split()) for s in (theirs, ours))
        assert vars(first) == vars(second)


class Part:
    def __init__(self, a: int, b: int = 2, c: int = 3):
        self.values = (a, b, c)

    @classmethod
    def from_config(cls, cfg: Any, extra: int = 0) -> dict[str, int]:
        return {"a": cfg.SEED + extra, "b": cfg.VERSION}


def test_configurable_translates_alike(theirs: SimpleNamespace, ours: SimpleNamespace) -> None:
    def built(s: SimpleNamespace) -> list[tuple[int, ...]]:
        part = type("Configured", (Part,), {"__init__": s.configurable.configurable(Part.__init__)})
        cfg = s.config.get_cfg()
        return [p.values for p in (part(5), part(cfg), part(cfg=cfg, c=9), part(cfg, extra=4), part(cfg, b=0))]

    assert built(theirs) == built(ours)


class Toy(nn.Module):
    """Two layers that return two losses."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, data: Tensor) -> dict[str, Tensor]:
        value = self.layers(data)
        return {"loss_mask": (value - data.sum()).square().mean(), "loss_class": value.abs().mean()}


def _trainer(s: SimpleNamespace, folder: Path, schedule: str, start: int = 0) -> tuple[Any, Any]:
    cfg = s.config.get_cfg()
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.STEPS = 8, 3, (5,)
    cfg.SOLVER.LR_SCHEDULER_NAME = schedule
    folder.mkdir(exist_ok=True)
    model = Toy()
    data = (torch.full((2, 4), 0.1 * (i % 4)) for i in itertools.count(start))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    trainer = s.train.SimpleTrainer(model, data, optimizer)
    checkpointer_class = type("Checkpointer", (DataOnly, s.checkpoint.DetectionCheckpointer), {})
    checkpointer = checkpointer_class(model, str(folder), trainer=trainer)
    trainer.register_hooks(
        [
            s.hooks.LRScheduler(optimizer, s.solver.build_lr_scheduler(cfg, optimizer)),
            s.hooks.EvalHook(4, lambda: {"sem_seg": {"mIoU": 7.0}}),
            s.hooks.PeriodicCheckpointer(checkpointer, 4),
            s.hooks.PeriodicWriter([s.events.JSONWriter(str(folder / "metrics.json"))], 1),
        ]
    )
    return trainer, checkpointer


def _written(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return [{key: value for key, value in line.items() if "time" not in key} for line in lines]


@pytest.mark.parametrize("schedule", ["WarmupMultiStepLR", "WarmupCosineLR"])
def test_trainings_are_equal_number_by_number(
    schedule: str, theirs: SimpleNamespace, ours: SimpleNamespace, tmp_path: Path
) -> None:
    (first, _), (second, _) = (_trainer(s, tmp_path / str(i), schedule) for i, s in enumerate((theirs, ours)))
    first.train(0, 8)
    second.train(0, 8)
    assert _written(tmp_path / "0") == _written(tmp_path / "1")
    assert len(_written(tmp_path / "0")) == 9  # eight iterations and the last evaluation
    names = [{path.name for path in (tmp_path / str(i)).iterdir()} for i in range(2)]
    assert names[0] == names[1]
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name])


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["Detectron2 first", "fallback first"])
def test_one_side_resumes_what_the_other_began(
    order: tuple[int, int], theirs: SimpleNamespace, ours: SimpleNamespace, tmp_path: Path
) -> None:
    sides = (theirs, ours)
    whole, _ = _trainer(ours, tmp_path / "whole", "WarmupCosineLR")
    whole.train(0, 8)

    begun, _ = _trainer(sides[order[0]], tmp_path / "parts", "WarmupCosineLR")
    begun.train(0, 4)  # saves model_0000003 and model_final
    resumed, checkpointer = _trainer(sides[order[1]], tmp_path / "parts", "WarmupCosineLR", start=4)
    checkpointer.resume_or_load("", resume=True)
    assert resumed.iter == 3
    resumed.train(4, 8)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name])
