"""train_net.py trains: from the command line, killed and resumed, in two processes, and what it says when it cannot."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

from tests import forked
from tests.command_line import call, results, wrapper, write_dataset
from tests.pipeline.tiny_segmenter import tiny_options
from tests.san.tiny_san import TINY_SAN
from tests.san.tiny_training import OPTIONS, weights


def words(folder: Path, *options: str) -> list[str]:
    """Arguments of a training on drawn scenes, which it is evaluated on too."""
    dataset = folder / "scenes" / "dataset.yaml"
    if not dataset.is_file():
        dataset = write_dataset(folder / "scenes", 5)
    files = ["--train-dataset", str(dataset), "--dataset", str(dataset)]
    return [*files, *tiny_options(folder), *TINY_SAN, *OPTIONS, *options]


def test_training_ends_with_an_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(monkeypatch, *words(tmp_path)) == ""
    output = tmp_path / "output"
    report = results(next((tmp_path / "scenes").glob("*.yaml")), output)
    assert report["images"] == 5
    assert (output / "report.html").is_file()
    assert (output / "model_final.pth").is_file()
    assert {"total_loss", "lr", "iteration"} <= set(json.loads((output / "metrics.json").read_text().splitlines()[-1]))


def test_its_checkpoint_gives_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(monkeypatch, *words(tmp_path)) == ""
    dataset = next((tmp_path / "scenes").glob("*.yaml"))
    trained = results(dataset, tmp_path / "output")
    final = str(tmp_path / "output" / "model_final.pth")
    again = words(tmp_path, "MODEL.WEIGHTS", final, "OUTPUT_DIR", str(tmp_path / "again"))
    assert call(monkeypatch, "--eval-only", *again) == ""
    assert results(dataset, tmp_path / "again")["mIoU"] == trained["mIoU"]


@pytest.mark.slow
def test_a_training_that_was_killed_goes_on_to_the_bit(tmp_path: Path) -> None:
    script = wrapper(tmp_path)
    long = ("SOLVER.MAX_ITER", "40", "SOLVER.CHECKPOINT_PERIOD", "5")
    whole = forked.run([script, *words(tmp_path, *long, "OUTPUT_DIR", str(tmp_path / "whole"))], tmp_path)
    assert whole.returncode == 0, whole.stderr
    parts = words(tmp_path, *long, "OUTPUT_DIR", str(tmp_path / "parts"))
    process = forked.start([script, *parts], tmp_path)
    limit = time.monotonic() + 120
    while not (tmp_path / "parts" / "model_0000009.pth").is_file():
        assert time.monotonic() < limit
        assert process.is_alive()
        time.sleep(0.02)
    process.kill()
    process.join(30)
    assert not (tmp_path / "parts" / "model_final.pth").is_file()
    done = forked.run([script, "--resume", *parts], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Resumed at iteration" in done.stdout
    first, second = (weights(tmp_path / name / "model_final.pth") for name in ("whole", "parts"))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert not list((tmp_path / "parts").rglob("*.tmp"))


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    script = wrapper(tmp_path)
    one = forked.run([script, *words(tmp_path, "OUTPUT_DIR", str(tmp_path / "one"))], tmp_path)
    assert one.returncode == 0, one.stderr
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *forked.FORKING]
    both = words(tmp_path, "OUTPUT_DIR", str(tmp_path / "two"))
    two = forked.run([*torchrun, script, *both], tmp_path, CUDA_VISIBLE_DEVICES="")
    assert two.returncode == 0, two.stderr
    first, second = (
        json.loads((tmp_path / name / "metrics.json").read_text().splitlines()[-1]) for name in ("one", "two")
    )
    # The same images; every process draws points of its own.
    assert first["loss_ce"] == pytest.approx(second["loss_ce"], rel=0.02)
    assert first["loss_mask"] == pytest.approx(second["loss_mask"], rel=0.2)


def test_a_loss_that_is_no_number_ends_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = call(monkeypatch, *words(tmp_path, "SOLVER.BASE_LR", "1e30"))
    assert said.startswith("error: iteration ")
    assert "infinite or NaN" in said
    assert "last good checkpoint" in said


def test_what_has_nothing_to_train_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = call(monkeypatch, *words(tmp_path, "MODEL.META_ARCHITECTURE", "CLIPtrase"))
    assert "nothing to train" in said
    assert "--eval-only" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("TEST.METHODS", "['clip']"), "TEST.METHODS"),
        (("TEST.UNSUPERVISED_GROUPS", "2"), "TEST.UNSUPERVISED_GROUPS"),
        (("TEST.PROTOCOL", "slide"), "TEST.PROTOCOL"),
        (("TEST.PROTOCOL", "tiles"), "TEST.PROTOCOL"),
    ],
)
def test_what_is_of_the_training_free_method_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], message: str
) -> None:
    assert message in call(monkeypatch, "--eval-only", *words(tmp_path, *options))
