"""Training from a configuration: it learns, it can be resumed to the bit, it stops where it must."""

from __future__ import annotations

import json
import logging
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from cliptrase_d2.d2 import CfgNode
from cliptrase_d2.data.register import register_dataset
from cliptrase_d2.san.model import SAN
from cliptrase_d2.san.trainer import NonFiniteLossError, SANTrainer, seed_step
from cliptrase_d2.san.training import train
from cliptrase_d2.san.training_data import TrainingMapper
from cliptrase_d2.segmenter.build import build_segmenter
from cliptrase_d2.utils.errors import InputError, WriteError
from cliptrase_d2.utils.interruption import Interrupted
from tests.drawn_scenes import CLASSES
from tests.faults import room_for
from tests.san.tiny_training import training_config, weights


def run(cfg: CfgNode, *, resume: bool = False) -> SAN:
    Path(cfg.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)  # as default_setup does
    return train(cfg, resume=resume)


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_resumed_training_is_the_same_to_the_bit(tmp_path: Path) -> None:
    whole = training_config(tmp_path, "OUTPUT_DIR", str(tmp_path / "whole"))
    run(whole)
    parts = training_config(tmp_path, "OUTPUT_DIR", str(tmp_path / "parts"), "DATALOADER.NUM_WORKERS", "1")
    with pytest.MonkeyPatch.context() as patch:
        step = SANTrainer.run_step

        def dies(self: SANTrainer) -> None:
            if self.iter == 3:
                raise KeyboardInterrupt
            step(self)

        patch.setattr(SANTrainer, "run_step", dies)
        with pytest.raises(Interrupted, match=r"3 of 4 steps are done, last checkpoint: .*model_0000001\.pth"):
            run(parts)
    assert (tmp_path / "parts" / "last_checkpoint").read_text() == "model_0000001.pth"
    torch.manual_seed(99)  # another process begins with other random numbers
    train(parts, resume=True)
    first, second = (tmp_path / name / "model_final.pth" for name in ("whole", "parts"))
    assert same(weights(first), weights(second))
    states = [torch.load(path, weights_only=True)["trainer"]["optimizer"]["state"] for path in (first, second)]
    assert all(torch.equal(states[0][key]["exp_avg"], states[1][key]["exp_avg"]) for key in states[0])


def test_a_step_in_parts_is_nearly_the_step(tmp_path: Path) -> None:
    one = ("SOLVER.MAX_ITER", "1", "OUTPUT_DIR")
    run(training_config(tmp_path, *one, str(tmp_path / "whole")))
    run(training_config(tmp_path, *one, str(tmp_path / "parts"), "SOLVER.ACCUMULATION_STEPS", "2"))
    first, second = (lines(tmp_path / name)[-1] for name in ("whole", "parts"))
    assert first["loss_ce"] == pytest.approx(second["loss_ce"], rel=0.05)
    assert first["loss_mask"] == pytest.approx(second["loss_mask"], rel=0.2)  # other random points


def test_half_precision_trains_too(tmp_path: Path) -> None:
    run(training_config(tmp_path, "SOLVER.MAX_ITER", "1", "OUTPUT_DIR", str(tmp_path / "full")))
    half = ("SOLVER.AMP.ENABLED", "True", "OUTPUT_DIR", str(tmp_path / "half"))
    run(training_config(tmp_path, "SOLVER.MAX_ITER", "1", *half))
    first, second = (lines(tmp_path / name)[-1] for name in ("full", "half"))
    assert first["loss_ce"] != second["loss_ce"]
    assert first["loss_ce"] == pytest.approx(second["loss_ce"], rel=0.03)
    assert first["loss_mask"] == pytest.approx(second["loss_mask"], rel=0.05)


def test_the_losses_fall(tmp_path: Path) -> None:
    cfg = training_config(
        tmp_path, "SOLVER.MAX_ITER", "60", "SOLVER.BASE_LR", "0.003", "SOLVER.CHECKPOINT_PERIOD", "99"
    )
    run(cfg)
    found = lines(Path(cfg.OUTPUT_DIR))
    assert found[-1]["total_loss"] < 0.8 * found[0]["total_loss"]
    assert found[-1]["lr"] < found[0]["lr"]


def test_frozen_weights_stay_as_they_are(tmp_path: Path) -> None:
    cfg = training_config(tmp_path)
    torch.manual_seed(0)
    before = build_segmenter(cfg).state_dict()
    after = run(cfg).state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert "clip_visual_extractor.positional_embedding" in changed
    assert "ov_classifier.bg_embed" in changed
    clip = {name for name in changed if not name.startswith("side_adapter_network.")}
    assert clip == {"clip_visual_extractor.positional_embedding", "ov_classifier.bg_embed"}


def test_evaluations_on_the_way_are_in_the_log(tmp_path: Path) -> None:
    cfg = training_config(tmp_path, "TEST.EVAL_PERIOD", "2")
    run(cfg)
    name = cfg.DATASETS.TEST[0]
    found = {line["iteration"]: line for line in lines(Path(cfg.OUTPUT_DIR)) if f"{name}/mIoU" in line}
    assert list(found) == [1]  # after two iterations; that after the last is the caller's
    assert 0 <= found[1][f"{name}/mIoU"] <= 100


def test_checkpoints_that_are_kept_are_the_newest(tmp_path: Path) -> None:
    run(training_config(tmp_path, "SOLVER.CHECKPOINT_PERIOD", "1", "SOLVER.MAX_TO_KEEP", "2"))
    kept = sorted(path.name for path in (tmp_path / "output").glob("model_*.pth"))
    assert kept == ["model_0000002.pth", "model_0000003.pth", "model_final.pth"]


def test_a_loss_that_is_no_number_stops_with_what_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = training_config(tmp_path)
    forward = SAN.forward

    def poisoned(self: SAN, *arguments: object) -> object:
        losses = forward(self, *arguments)  # type: ignore[arg-type]
        calls.append(1)
        return {name: value * float("nan") for name, value in losses.items()} if len(calls) == 4 else losses

    calls: list[int] = []
    monkeypatch.setattr(SAN, "forward", poisoned)
    with pytest.raises(NonFiniteLossError) as caught:
        run(cfg)
    message = str(caught.value)
    assert message.startswith("iteration 3:")
    assert message.count("scenes/images") == 4
    assert "loss_ce nan" in message
    assert "model_0000001.pth" in message
    saved = weights(tmp_path / "output" / "model_0000001.pth")
    assert all(torch.isfinite(value).all() for name, value in saved.items() if not name.endswith("attn_mask"))


def tracebacks(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What was logged with one; Detectron2's own loop logs every exception so, and leaves us no choice."""
    return [record for record in caplog.records if record.exc_info and not record.name.startswith("detectron2.")]


def test_a_reading_process_that_dies_ends_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    read, here = TrainingMapper.__call__, os.getpid()

    def dies(self: TrainingMapper, *arguments: Any) -> dict[str, Any]:
        if os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self, *arguments)

    monkeypatch.setattr(TrainingMapper, "__call__", dies)
    with pytest.raises(InputError, match=r"reading the images to train on ended.*NUM_WORKERS.*--resume goes on"):
        run(training_config(tmp_path, "DATALOADER.NUM_WORKERS", "1"))
    assert not tracebacks(caplog)


def test_a_reading_process_whose_death_shows_between_two_steps_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(_: SANTrainer) -> None:
        raise RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. ")

    monkeypatch.setattr(SANTrainer, "run_step", told)
    with pytest.raises(InputError, match=r"reading the images to train on ended.*NUM_WORKERS"):
        run(training_config(tmp_path))


def test_a_disk_without_room_for_a_checkpoint_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cfg = training_config(tmp_path)
    with room_for(50_000), pytest.raises(WriteError, match=r"model_0000001\.pth: cannot be written .*Free some space"):
        run(cfg)
    assert not tracebacks(caplog)
    assert not [path for path in (tmp_path / "output").iterdir() if path.suffix in (".pth", ".tmp")]


def test_the_steps_random_numbers_are_of_the_seed_and_the_iteration() -> None:
    drawn = []
    for seed, iteration in ((0, 0), (0, 0), (0, 1), (1, 0)):
        seed_step(seed, iteration)
        drawn.append(torch.rand(1).item())
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) == 3


def test_an_open_seed_is_kept_by_the_checkpoint(tmp_path: Path) -> None:
    run(training_config(tmp_path, "SEED", "-1"))
    seeds = {
        torch.load(path, weights_only=True)["trainer"]["seed"] for path in (tmp_path / "output").glob("model_*.pth")
    }
    assert len(seeds) == 1


@pytest.mark.parametrize("kind", ["prototypes", "per_image"])
def test_warm_starts_train(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    cfg = training_config(tmp_path, "MODEL.SAN.QUERY_INIT", kind, "SOLVER.MAX_ITER", "1", "SOLVER.BASE_LR", "0.0")
    logging.getLogger("cliptrase_d2").propagate = True
    with caplog.at_level(logging.INFO, "cliptrase_d2.san.warm_start"):
        warm = run(cfg)
    assert f"Warm start ({kind}):" in caplog.text
    assert "5 images" in caplog.text
    cold = run(training_config(tmp_path, "SOLVER.MAX_ITER", "1", "SOLVER.BASE_LR", "0.0"))
    different = {
        name for name, value in warm.state_dict().items() if not torch.equal(value, cold.state_dict().get(name, value))
    }
    assert different == ({"side_adapter_network.query_embed"} if kind == "prototypes" else set())
    assert (warm.query_init is not None) == (kind == "per_image")
    if warm.query_init is not None:
        assert warm.query_init.projection.weight.abs().max() > 0


def test_weights_that_are_given_win_over_the_warm_start(tmp_path: Path) -> None:
    queries = torch.full((1, 6, 24), 0.5)
    torch.save({"model": {"side_adapter_network.query_embed": queries}}, tmp_path / "init.pth")
    keys = ("MODEL.WEIGHTS", str(tmp_path / "init.pth"), "SOLVER.MAX_ITER", "1", "SOLVER.BASE_LR", "0.0")
    model = run(training_config(tmp_path, *keys, "MODEL.SAN.QUERY_INIT", "prototypes"))
    assert torch.equal(model.side_adapter_network.query_embed.data, queries)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.META_ARCHITECTURE", "CLIPtrase", "nothing to train"),
        ("DATASETS.TRAIN", "()", "no data set"),
        ("DATASETS.TRAIN", "('unheard_of',)", "unheard_of"),
        ("SOLVER.IMS_PER_BATCH", "0", "IMS_PER_BATCH"),
        ("SOLVER.ACCUMULATION_STEPS", "3", "multiple of 3"),
        ("INPUT.CROP.TYPE", "relative", "absolute"),
        ("INPUT.RANDOM_FLIP", "vertical", "horizontal"),
    ],
)
def test_what_cannot_be_trained_is_refused(tmp_path: Path, key: str, value: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(training_config(tmp_path, key, value))


def test_images_without_labels_cannot_be_trained_on(tmp_path: Path) -> None:
    cfg = training_config(tmp_path)
    name = register_dataset(f"unlabelled_{tmp_path.name}", tmp_path / "scenes" / "images", CLASSES)
    cfg.DATASETS.TRAIN = (name,)
    with pytest.raises(InputError, match="5 images without labels"):
        run(cfg)


def test_the_trained_model_is_evaluated_from_its_checkpoint(tmp_path: Path) -> None:
    cfg = training_config(tmp_path)
    trained = run(cfg).eval()
    again = build_segmenter(training_config(tmp_path, "MODEL.WEIGHTS", str(tmp_path / "output" / "model_final.pth")))
    assert same(trained.state_dict(), again.state_dict())


def test_a_checkpoint_of_other_classes_loads_but_for_what_they_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = build_segmenter(training_config(tmp_path))
    state = {**model.state_dict(), "criterion.empty_weight": torch.ones(172)}  # as of the published SAN
    torch.save({"model": state, "iteration": 59999}, tmp_path / "published.pth")
    logging.getLogger("cliptrase_d2").propagate = True
    with caplog.at_level(logging.INFO, "cliptrase_d2.segmenter.build"):
        again = build_segmenter(training_config(tmp_path, "MODEL.WEIGHTS", str(tmp_path / "published.pth")))
    assert f"{len(state) - 1} of the model's {len(state)} tensors are loaded" in caplog.text
    assert "of another shape, so as they were: 1 (criterion.empty_weight)" in caplog.text
    assert same(model.state_dict(), again.state_dict())
