"""Training from a configuration: learning, bit-exact resuming, errors, optimizer, schedule and checkpoints."""

import json
import logging
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cliptrase_d2.d2 import CfgNode
from cliptrase_d2.data.register import register_dataset
from cliptrase_d2.san.checkpoints import AtomicCheckpointer, describe_loading
from cliptrase_d2.san.model import SAN
from cliptrase_d2.san.trainer import NonFiniteLossError, SANTrainer, seed_step
from cliptrase_d2.san.training import build_optimizer, build_schedule, read_gradient_limit, train
from cliptrase_d2.san.training_data import TrainingDataset
from cliptrase_d2.segmenter.build import build_segmenter
from cliptrase_d2.utils.errors import InputError, WriteError
from cliptrase_d2.utils.interruption import Interrupted
from tests.drawn_scenes import CLASSES
from tests.faults import limit_file_size
from tests.san.tiny_san import tiny_san, tiny_san_config, training_config, weights


def run(cfg: CfgNode, *, resume: bool = False) -> SAN:
    Path(cfg.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)  # as default_setup does
    return train(cfg, resume=resume)


def log_lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def test_resumed_training_is_bit_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(training_config(tmp_path, "OUTPUT_DIR", str(tmp_path / "full")))
    cfg = training_config(tmp_path, "OUTPUT_DIR", str(tmp_path / "resumed"), "DATALOADER.NUM_WORKERS", "1")
    step = SANTrainer.run_step

    def interrupt(self: SANTrainer) -> None:
        if self.iter == 3:
            raise KeyboardInterrupt
        step(self)

    with monkeypatch.context() as patch:
        patch.setattr(SANTrainer, "run_step", interrupt)
        with pytest.raises(Interrupted, match=r"3 of 4 .*model_0000001\.pth"):
            run(cfg)
    assert (tmp_path / "resumed" / "last_checkpoint").read_text() == "model_0000001.pth"
    torch.manual_seed(99)  # a new process has another random state
    train(cfg, resume=True)
    first, second = (tmp_path / name / "model_final.pth" for name in ("full", "resumed"))
    assert equal(weights(first), weights(second))
    states = [torch.load(path, weights_only=True)["trainer"]["optimizer"]["state"] for path in (first, second)]
    assert all(torch.equal(states[0][key]["exp_avg"], states[1][key]["exp_avg"]) for key in states[0])
    averages = torch.cat([state["exp_avg"].flatten() for state in states[0].values()])
    assert averages.norm() <= training_config(tmp_path).SOLVER.CLIP_GRADIENTS.CLIP_VALUE  # of clipped gradients


@pytest.mark.parametrize(
    ("options", "tolerances"),
    [
        (("SOLVER.ACCUMULATION_STEPS", "2"), (0.05, 0.2)),  # other random points
        (("SOLVER.AMP.ENABLED", "True"), (0.03, 0.05)),
    ],
)
def test_accumulation_and_half_precision_give_similar_losses(
    tmp_path: Path, options: tuple[str, ...], tolerances: tuple[float, float]
) -> None:
    run(training_config(tmp_path, "SOLVER.MAX_ITER", "1", "OUTPUT_DIR", str(tmp_path / "plain")))
    run(training_config(tmp_path, "SOLVER.MAX_ITER", "1", "OUTPUT_DIR", str(tmp_path / "changed"), *options))
    first, second = (log_lines(tmp_path / name)[-1] for name in ("plain", "changed"))
    assert first["loss_ce"] != second["loss_ce"]
    assert first["loss_ce"] == pytest.approx(second["loss_ce"], rel=tolerances[0])
    assert first["loss_mask"] == pytest.approx(second["loss_mask"], rel=tolerances[1])


def test_losses_fall(tmp_path: Path) -> None:
    options = ("SOLVER.MAX_ITER", "60", "SOLVER.BASE_LR", "0.003", "SOLVER.CHECKPOINT_PERIOD", "99")
    run(training_config(tmp_path, *options))
    first, *_, last = log_lines(tmp_path / "output")
    assert last["total_loss"] < 0.8 * first["total_loss"]
    assert last["lr"] < first["lr"]


def test_log_has_the_evaluations_during_training(tmp_path: Path) -> None:
    cfg = training_config(tmp_path, "TEST.EVAL_PERIOD", "2")
    run(cfg)
    metric = f"{cfg.DATASETS.TEST[0]}/mIoU"
    values = {line["iteration"]: line[metric] for line in log_lines(tmp_path / "output") if metric in line}
    assert list(values) == [1]  # after two iterations; the caller evaluates after the last
    assert 0 <= values[1] <= 100
    (line,) = (line for line in log_lines(tmp_path / "output") if metric in line)
    names = {name.rpartition("/")[2] for name in line if "/" in name}
    assert {"mIoU", "pACC"} <= names
    assert not [name for name in names if name.startswith(("IoU-", "ACC-"))]  # two lines for each class


def test_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    run(training_config(tmp_path, "SOLVER.CHECKPOINT_PERIOD", "1", "SOLVER.MAX_TO_KEEP", "2"))
    names = sorted(path.name for path in (tmp_path / "output").glob("model_*.pth"))
    assert names == ["model_0000002.pth", "model_0000003.pth", "model_final.pth"]


def test_nan_loss_stops_the_training_before_the_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = SAN.forward
    calls: list[int] = []

    def fail_in_call_4(self: SAN, *arguments: object) -> object:
        losses = forward(self, *arguments)  # type: ignore[arg-type]
        calls.append(1)
        return {name: value * float("nan") for name, value in losses.items()} if len(calls) == 4 else losses

    monkeypatch.setattr(SAN, "forward", fail_in_call_4)
    with pytest.raises(NonFiniteLossError, match=r"iteration 3:.*loss_ce nan.*model_0000001\.pth") as caught:
        run(training_config(tmp_path))
    assert str(caught.value).count("scenes/images") == 4
    saved = weights(tmp_path / "output" / "model_0000001.pth")
    assert all(torch.isfinite(value).all() for name, value in saved.items() if not name.endswith("attn_mask"))


def has_traceback(caplog: pytest.LogCaptureFixture) -> bool:
    """Detectron2's own training loop logs each exception with a traceback; ours must not."""
    return any(record.exc_info and not record.name.startswith("detectron2.") for record in caplog.records)


def test_death_of_a_worker_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    read_view, main_process = TrainingDataset.read_view, os.getpid()

    def die_in_worker(self: TrainingDataset, *arguments: Any) -> dict[str, Any]:
        if os.getpid() != main_process:
            os.kill(os.getpid(), signal.SIGKILL)
        return read_view(self, *arguments)

    monkeypatch.setattr(TrainingDataset, "read_view", die_in_worker)
    with pytest.raises(InputError, match=r"NUM_WORKERS.*images to train on"):
        run(training_config(tmp_path, "DATALOADER.NUM_WORKERS", "1"))
    assert not has_traceback(caplog)


def test_death_of_a_worker_between_steps_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_step(_: SANTrainer) -> None:
        raise RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. ")

    monkeypatch.setattr(SANTrainer, "run_step", run_step)
    with pytest.raises(InputError, match=r"NUM_WORKERS.*images to train on"):
        run(training_config(tmp_path))


def test_random_numbers_of_a_step_depend_on_seed_and_iteration() -> None:
    numbers = []
    for seed, iteration in ((0, 0), (0, 0), (0, 1), (1, 0)):
        seed_step(seed, iteration)
        numbers.append(torch.rand(1).item())
    assert numbers[0] == numbers[1]
    assert len(set(numbers)) == 3


def test_checkpoints_store_a_drawn_seed(tmp_path: Path) -> None:
    run(training_config(tmp_path, "SEED", "-1"))
    checkpoints = (tmp_path / "output").glob("model_*.pth")
    assert len({torch.load(path, weights_only=True)["trainer"]["seed"] for path in checkpoints}) == 1


def test_prototypes_change_the_queries_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = ("SOLVER.MAX_ITER", "1", "SOLVER.BASE_LR", "0.0")
    logging.getLogger("cliptrase_d2").propagate = True
    with caplog.at_level(logging.INFO, "cliptrase_d2.san.warm_start"):
        warm = run(training_config(tmp_path, "MODEL.SAN.QUERY_INIT", "prototypes", *options))
    assert "prototypes" in caplog.text
    assert "5 images" in caplog.text
    cold = run(training_config(tmp_path, *options)).state_dict()
    different = {name for name, value in warm.state_dict().items() if not torch.equal(value, cold.get(name, value))}
    assert different == {"side_adapter_network.query_embed"}


def test_given_weights_override_the_warm_start(tmp_path: Path) -> None:
    queries = torch.full((1, 6, 24), 0.5)
    torch.save({"model": {"side_adapter_network.query_embed": queries}}, tmp_path / "init.pth")
    options = ("MODEL.WEIGHTS", str(tmp_path / "init.pth"), "SOLVER.MAX_ITER", "1", "SOLVER.BASE_LR", "0.0")
    model = run(training_config(tmp_path, *options, "MODEL.SAN.QUERY_INIT", "prototypes"))
    assert torch.equal(model.side_adapter_network.query_embed.data, queries)


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("MODEL.META_ARCHITECTURE", "CLIPtrase", "META_ARCHITECTURE.*CLIPtrase"),
        ("DATASETS.TRAIN", "()", r"DATASETS\.TRAIN"),
        ("DATASETS.TRAIN", "('unknown_set',)", r"^DATASETS\.TRAIN: unknown data set 'unknown_set'"),
        ("DATASETS.TEST", "('unknown_set',)", r"^DATASETS\.TEST: unknown data set 'unknown_set'"),
        ("SOLVER.IMS_PER_BATCH", "0", "IMS_PER_BATCH.*0"),
        ("SOLVER.OPTIMIZER", "ADAM", r"SOLVER\.OPTIMIZER: 'ADAM'.*'ADAMW' or 'SGD'"),
        ("SOLVER.ACCUMULATION_STEPS", "3", "ACCUMULATION_STEPS 3"),
        ("INPUT.CROP.TYPE", "relative", r"CROP\.TYPE.*relative"),
        ("INPUT.CROP.SIZE", "[0, 5]", r"CROP\.SIZE.*0"),
        ("INPUT.RANDOM_FLIP", "vertical", "RANDOM_FLIP.*vertical"),
        ("INPUT.MIN_SIZE_TRAIN_SAMPLING", "all", "MIN_SIZE_TRAIN_SAMPLING.*all"),
        ("INPUT.MIN_SIZE_TRAIN_SAMPLING", "range", r"MIN_SIZE_TRAIN.*64"),
        ("INPUT.MIN_SIZE_TRAIN", "()", "MIN_SIZE_TRAIN"),
        ("INPUT.MIN_SIZE_TRAIN", "(0,)", "MIN_SIZE_TRAIN.*0"),
    ],
)
def test_unusable_settings_are_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: str, match: str
) -> None:
    monkeypatch.setattr(SANTrainer, "train", lambda *_: pytest.fail("it was too late"))
    with pytest.raises(InputError, match=match):
        run(training_config(tmp_path, key, value))


def test_all_training_sets_are_checked_before_any_is_listed(tmp_path: Path) -> None:
    cfg = training_config(tmp_path)
    register_dataset(f"missing_{tmp_path.name}", tmp_path / "missing", CLASSES)
    cfg.DATASETS.TRAIN = (f"missing_{tmp_path.name}", f"mising_{tmp_path.name}")
    with pytest.raises(InputError, match=rf"^DATASETS\.TRAIN: .*'mising_.*'missing_{tmp_path.name}'"):
        run(cfg)


@pytest.mark.parametrize(("labels", "match"), [(None, "5 images"), ("annotations", "unlike_")])
def test_unlabelled_or_different_data_sets_are_rejected(tmp_path: Path, labels: str | None, match: str) -> None:
    cfg = training_config(tmp_path)
    scenes, classes = tmp_path / "scenes", CLASSES if labels is None else ("other", "classes")
    folder = None if labels is None else scenes / labels
    name = register_dataset(f"unlike_{tmp_path.name}", scenes / "images", classes, folder)
    cfg.DATASETS.TRAIN = (name,) if labels is None else (*cfg.DATASETS.TRAIN, name)
    with pytest.raises(InputError, match=match):
        run(cfg)


def test_checkpoint_of_other_classes_loads_without_its_class_weights(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = build_segmenter(training_config(tmp_path))
    state = {**model.state_dict(), "criterion.empty_weight": torch.ones(172)}  # as in the published SAN
    torch.save({"model": state, "iteration": 59999}, tmp_path / "published.pth")
    logging.getLogger("cliptrase_d2").propagate = True
    with caplog.at_level(logging.INFO, "cliptrase_d2.segmenter.build"):
        loaded = build_segmenter(training_config(tmp_path, "MODEL.WEIGHTS", str(tmp_path / "published.pth")))
    assert f"{len(state) - 1} of the model's {len(state)} tensors" in caplog.text
    assert "1 (criterion.empty_weight)" in caplog.text
    assert equal(model.state_dict(), loaded.state_dict())


def test_each_kind_of_parameter_has_its_weight_decay(tmp_path: Path) -> None:
    keys = ("SOLVER.WEIGHT_DECAY", "0.1", "SOLVER.WEIGHT_DECAY_NORM", "0.2", "SOLVER.WEIGHT_DECAY_EMBED", "0.3")
    model = tiny_san(tmp_path)
    groups = build_optimizer(tiny_san_config(tmp_path, *keys), model).param_groups
    optimized = [(id(parameter), group["weight_decay"]) for group in groups for parameter in group["params"]]
    names = {id(parameter): name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert sorted(parameter for parameter, _ in optimized) == sorted(names)  # each parameter appears once
    decays = {names[parameter]: decay for parameter, decay in optimized}
    side = "side_adapter_network."
    assert {name for name, decay in decays.items() if decay == 0.3} == {
        f"{side}query_embed", f"{side}query_pos_embed", f"{side}vit_model.pos_embed",
        "clip_visual_extractor.positional_embedding",
    }  # fmt: skip
    assert decays[f"{side}vit_model.blocks.0.norm1.weight"] == 0.2
    assert decays[f"{side}fusion_layers.layer_0.input_proj.0.weight"] == 0.1  # as published
    assert decays["ov_classifier.bg_embed"] == 0.1


def read_groups(optimizer: torch.optim.Optimizer, model: nn.Module, setting: str) -> dict[str, float]:
    """Return a setting of each optimized parameter by the parameter's name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = optimizer.param_groups
    return {names[id(parameter)]: group[setting] for group in groups for parameter in group["params"]}


def test_multipliers_change_the_learning_rates_of_their_parts(tmp_path: Path) -> None:
    options = ("SOLVER.BASE_LR", "2.0", "SOLVER.BACKBONE_MULTIPLIER", "0.5", "SOLVER.CLIP_MULTIPLIER", "0.1")
    model = tiny_san(tmp_path)
    rates = read_groups(build_optimizer(tiny_san_config(tmp_path, *options), model), model, "lr")
    expected = {"side_adapter_network": 1.0, "clip_visual_extractor": 0.2, "ov_classifier": 2.0}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert rates == {name: expected[name.split(".")[0]] for name in trained}


def test_schedule_keeps_the_ratios_of_the_learning_rates(tmp_path: Path) -> None:
    options = ("SOLVER.BASE_LR", "1.0", "SOLVER.BACKBONE_MULTIPLIER", "0.5", "SOLVER.MAX_ITER", "10")
    cfg = tiny_san_config(tmp_path, *options, "SOLVER.LR_SCHEDULER_NAME", "WarmupPolyLR", "SOLVER.WARMUP_ITERS", "0")
    model = tiny_san(tmp_path)
    optimizer = build_optimizer(cfg, model)
    schedule = build_schedule(cfg, optimizer)
    optimizer.step()
    schedule.step()
    rates = read_groups(optimizer, model, "lr")
    assert rates["ov_classifier.bg_embed"] == pytest.approx(0.9**0.9)  # nine tenths of the training remain
    assert rates["side_adapter_network.query_embed"] == pytest.approx(0.5 * 0.9**0.9)


def test_groups_of_equal_multipliers_are_those_of_the_weight_decays(tmp_path: Path) -> None:
    groups = build_optimizer(tiny_san_config(tmp_path), tiny_san(tmp_path)).param_groups
    assert len(groups) == len({group["weight_decay"] for group in groups})  # checkpoints without multipliers resume


def test_sgd_has_the_momentum_of_the_configuration(tmp_path: Path) -> None:
    keys = ("SOLVER.OPTIMIZER", "SGD", "SOLVER.MOMENTUM", "0.5", "SOLVER.WEIGHT_DECAY", "0.1", "SOLVER.BASE_LR", "1.0")
    model = tiny_san(tmp_path)
    optimizer = build_optimizer(tiny_san_config(tmp_path, *keys), model)
    assert isinstance(optimizer, torch.optim.SGD)
    weight = model.ov_classifier.bg_embed
    start = weight.detach().clone()
    for _ in range(2):  # by hand: v1 = 0.1·w0, w1 = w0 - v1; v2 = 0.5·v1 + 0.1·w1, w2 = w1 - v2
        weight.grad = torch.zeros_like(weight)
        optimizer.step()
    assert torch.allclose(weight.detach(), start * (0.9 - 0.05 - 0.09))


def test_sgd_trains(tmp_path: Path) -> None:
    run(training_config(tmp_path, "SOLVER.OPTIMIZER", "SGD", "SOLVER.MAX_ITER", "2"))
    assert (tmp_path / "output" / "model_final.pth").is_file()


@pytest.mark.parametrize(
    ("options", "rates"),
    [
        ({"BASE_LR": "2.0", "POLY_LR_POWER": "2.0"}, {0: 2.0, 50: 2.0 * 0.25, 90: 2.0 * 0.01}),
        ({"BASE_LR": "0.0001", "MAX_ITER": "60000"}, {19: 9.9971e-05}),  # from the published training log
        ({"BASE_LR": "1.0", "WARMUP_ITERS": "10", "WARMUP_FACTOR": "0.1"}, {0: 0.1, 10: 0.91}),  # 0.9^0.9 at the end
        ({"BASE_LR": "1.0", "LR_SCHEDULER_NAME": "WarmupCosineLR"}, {50: 0.5}),
    ],
    ids=["poly", "published", "warmup", "cosine"],
)
def test_learning_rates_by_hand(tmp_path: Path, options: dict[str, str], rates: dict[int, float]) -> None:
    keys = {"LR_SCHEDULER_NAME": "WarmupPolyLR", "WARMUP_ITERS": "0", "MAX_ITER": "100", **options}
    cfg = tiny_san_config(tmp_path, *(word for key, value in keys.items() for word in (f"SOLVER.{key}", value)))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], cfg.SOLVER.BASE_LR)
    schedule = build_schedule(cfg, optimizer)
    for step in range(max(rates) + 1):
        if step in rates:
            assert optimizer.param_groups[0]["lr"] == pytest.approx(rates[step], rel=1e-2 if step == 10 else 1e-5)
        optimizer.step()
        schedule.step()


def test_gradient_limit_is_read_from_the_configuration(tmp_path: Path) -> None:
    clip = "SOLVER.CLIP_GRADIENTS"
    full = (f"{clip}.ENABLED", "True", f"{clip}.CLIP_TYPE", "full_model", f"{clip}.CLIP_VALUE", "0.25")
    assert read_gradient_limit(tiny_san_config(tmp_path)) is None
    assert read_gradient_limit(tiny_san_config(tmp_path, *full)) == 0.25
    for key, value in (("CLIP_TYPE", "value"), ("NORM_TYPE", "1.0"), ("CLIP_VALUE", "0.0")):
        with pytest.raises(InputError, match="CLIP_GRADIENTS"):
            read_gradient_limit(tiny_san_config(tmp_path, *full, f"{clip}.{key}", value))


def test_checkpoint_restores_weights_and_extra_values(tmp_path: Path) -> None:
    model, other = nn.Linear(2, 3), nn.Linear(2, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    AtomicCheckpointer(model, str(tmp_path), optimizer=optimizer).save("model_1", iteration=7)
    extra = AtomicCheckpointer(other, str(tmp_path)).resume_or_load("", resume=True)
    assert torch.equal(model.weight, other.weight)
    assert extra["iteration"] == 7
    assert (tmp_path / "last_checkpoint").read_text() == "model_1.pth"


def test_full_disk_keeps_earlier_checkpoints(tmp_path: Path) -> None:
    model = nn.Linear(100, 100)
    checkpointer = AtomicCheckpointer(model, str(tmp_path))
    checkpointer.save("model_1")
    for name in ("model_1", "model_2"):
        with limit_file_size(20_000), pytest.raises(WriteError, match=rf"{name}\.pth"):
            checkpointer.save(name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last_checkpoint", "model_1.pth"]
    assert AtomicCheckpointer(nn.Linear(100, 100), str(tmp_path)).resume_or_load("", resume=True) == {}


def test_process_without_save_to_disk_writes_nothing(tmp_path: Path) -> None:
    AtomicCheckpointer(nn.Linear(2, 3), str(tmp_path), save_to_disk=False).save("model_1")
    assert not list(tmp_path.iterdir())


def test_report_lists_each_group_of_tensors() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    shapes = {"0.weight": (3, 2), "0.bias": (5,), "1.weight": (4, 3), "more": (1,)}
    loaded, *groups = describe_loading(model, {name: torch.zeros(shape) for name, shape in shapes.items()}).splitlines()
    assert "2 of the model's 4 tensors" in loaded
    for line, title, names in zip(groups, ("missing", "unknown", "shape"), ("1.bias", "more", "0.bias"), strict=True):
        assert title in line
        assert line.endswith(f": 1 ({names})")


def test_report_counts_many_names_by_part() -> None:
    weights = {f"{part}.{index}": torch.zeros(1) for part in ("clip", "side") for index in range(9)}
    assert ": 18 (9 clip.*, 9 side.*)" in describe_loading(nn.Linear(1, 1), weights)
