"""train_net.py: training from the command line, resuming after a kill, two processes, and errors."""

import json
import re
import time
from pathlib import Path

import pytest
import torch

from tests import forked
from tests.command_line import call, read_results, write_dataset, write_wrapper
from tests.pipeline.tiny_segmenter import tiny_options
from tests.san.tiny_san import TINY_SAN, TRAINING_OPTIONS, weights


def arguments(folder: Path, *options: str) -> list[str]:
    """Arguments for training and evaluation on drawn scenes."""
    dataset = folder / "scenes" / "dataset.yaml"
    if not dataset.is_file():
        dataset = write_dataset(folder / "scenes", 5)
    files = ["--train-dataset", str(dataset), "--dataset", str(dataset)]
    return [*files, *tiny_options(folder), *TINY_SAN, *TRAINING_OPTIONS, *options]


def last_losses(folder: Path) -> dict[str, float]:
    return json.loads((folder / "metrics.json").read_text().splitlines()[-1])


def test_training_ends_with_an_evaluation_that_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(monkeypatch, *arguments(tmp_path)) == ""
    output, dataset = tmp_path / "output", next((tmp_path / "scenes").glob("*.yaml"))
    trained = read_results(dataset, output)
    assert trained["images"] == 5
    assert (output / "report.html").is_file()
    assert {"total_loss", "lr", "iteration"} <= set(last_losses(output))
    again = ("MODEL.WEIGHTS", str(output / "model_final.pth"), "OUTPUT_DIR", str(tmp_path / "again"))
    assert call(monkeypatch, "--eval-only", *arguments(tmp_path, *again)) == ""
    assert read_results(dataset, tmp_path / "again")["mIoU"] == trained["mIoU"]


def test_evaluation_with_resume_takes_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_untrained = ("MODEL.SAN.ALLOW_UNTRAINED", "False")
    evaluation = ["--eval-only", "--resume", *arguments(tmp_path, *refuse_untrained)]
    assert re.search(r"MODEL\.WEIGHTS.*untrained.*ALLOW_UNTRAINED", call(monkeypatch, *evaluation))
    output, dataset = tmp_path / "output", tmp_path / "scenes" / "dataset.yaml"
    results = []
    for seed in ("0", "7"):  # the second training replaces the checkpoint under the same name
        assert call(monkeypatch, *arguments(tmp_path, "SEED", seed, "SOLVER.BASE_LR", "0.1")) == ""
        trained = read_results(dataset, output)
        assert call(monkeypatch, *evaluation) == ""
        results.append(read_results(dataset, output))
        assert results[-1]["per_class"] == trained["per_class"]
        assert str(output / "model_final.pth") in (output / "config.yaml").read_text()
    assert results[0]["per_class"] != results[1]["per_class"]


@pytest.mark.slow
def test_killed_training_resumes_bit_exactly(tmp_path: Path) -> None:
    script = write_wrapper(tmp_path)
    options = ("SOLVER.MAX_ITER", "40", "SOLVER.CHECKPOINT_PERIOD", "5", "OUTPUT_DIR")
    full = forked.run([script, *arguments(tmp_path, *options, str(tmp_path / "full"))], tmp_path)
    assert full.returncode == 0, full.stderr
    output = tmp_path / "killed"
    killed = arguments(tmp_path, *options, str(output))
    process = forked.start([script, *killed], tmp_path)
    limit = time.monotonic() + 120
    while not (output / "model_0000009.pth").is_file():
        assert time.monotonic() < limit
        assert process.is_alive()
        time.sleep(0.02)
    process.kill()
    process.join(30)
    assert not (output / "model_final.pth").is_file()
    resumed = forked.run([script, "--resume", *killed], tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "Resumed at iteration" in resumed.stdout
    first, second = (weights(folder / "model_final.pth") for folder in (tmp_path / "full", output))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert not list(output.rglob("*.tmp"))


@pytest.mark.slow
def test_two_processes_train_like_one(tmp_path: Path) -> None:
    script = write_wrapper(tmp_path)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *forked.FORKING]
    for name, launcher, environment in (("one", [], {}), ("two", torchrun, {"CUDA_VISIBLE_DEVICES": ""})):
        command = [*launcher, script, *arguments(tmp_path, "OUTPUT_DIR", str(tmp_path / name))]
        process = forked.run(command, tmp_path, **environment)
        assert process.returncode == 0, process.stderr
    first, second = (last_losses(tmp_path / name) for name in ("one", "two"))
    # The images are the same. Each process draws its own points.
    assert first["loss_ce"] == pytest.approx(second["loss_ce"], rel=0.02)
    assert first["loss_mask"] == pytest.approx(second["loss_mask"], rel=0.2)


def test_nan_loss_is_reported_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = call(monkeypatch, *arguments(tmp_path, "SOLVER.BASE_LR", "1e30"))
    assert message.startswith("error: iteration ")
    assert "NaN" in message


@pytest.mark.parametrize(
    ("flags", "key", "value", "message"),
    [
        ([], "MODEL.META_ARCHITECTURE", "CLIPtrase", "--eval-only"),
        (["--eval-only"], "TEST.METHODS", "['clip']", "TEST.METHODS"),
        (["--eval-only"], "TEST.UNSUPERVISED_GROUPS", "2", "TEST.UNSUPERVISED_GROUPS"),
        (["--eval-only"], "TEST.PROTOCOL", "slide", "TEST.PROTOCOL"),
        (["--eval-only"], "TEST.PROTOCOL", "tiles", "TEST.PROTOCOL"),
    ],
)
def test_options_of_the_other_architecture_are_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], key: str, value: str, message: str
) -> None:
    assert message in call(monkeypatch, *flags, *arguments(tmp_path, key, value))
