"""Evaluations that stop early: their messages and files, and that --resume gives the results of an undisturbed run."""

import json
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cliptrase_d2.d2 import CfgNode
from cliptrase_d2.data.mapper import EvaluationMapper
from cliptrase_d2.evaluation import evaluator
from cliptrase_d2.evaluation.evaluate import evaluate_dataset
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.utils.errors import InputError, WriteError
from cliptrase_d2.utils.interruption import Interrupted
from tests.pipeline.tiny_segmenter import tiny_config, tiny_segmenter

COUNT = 5
Fault = Callable[[pytest.MonkeyPatch], None]


def config(folder: Path, *options: str) -> CfgNode:
    return tiny_config(folder, "TEST.SAVE_PREDICTIONS", "True", "TEST.BATCH_SIZE", "2", *options)


def read_results(cfg: CfgNode, dataset: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Read metrics.json, and the predictions by name."""
    folder = Path(cfg.OUTPUT_DIR) / "inference" / dataset
    predictions = {path.name: path.read_bytes() for path in (folder / "predictions").iterdir()}
    return json.loads((folder / "metrics.json").read_text()), predictions


def _fail_to_write(*_: object) -> None:
    raise WriteError.of("the file", OSError(28, "No space left on device"))


def _interrupt(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGINT)


def at_prediction(number: int, fault: Callable[..., None]) -> Fault:
    """Cause a fault when the prediction of an image, numbered from 1, is written. The image is counted by then."""

    def arrange(patch: pytest.MonkeyPatch) -> None:
        save, calls = evaluator.SegmentationEvaluator.save, []

        def save_or_fail(self: evaluator.SegmentationEvaluator, *arguments: Any) -> None:
            calls.append(1)
            if len(calls) == number:
                fault()
            save(self, *arguments)

        patch.setattr(evaluator.SegmentationEvaluator, "save", save_or_fail)

    return arrange


def _full_disk_at_report(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(evaluator, "atomic_write_text", _fail_to_write)


def _kill_worker(patch: pytest.MonkeyPatch) -> None:
    read, main_process = EvaluationMapper.__call__, os.getpid()

    def read_or_die(self: EvaluationMapper, record: Any) -> Any:
        if os.getpid() != main_process and record["file_name"].endswith("scene_004.png"):
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self, record)

    patch.setattr(EvaluationMapper, "__call__", read_or_die)


def _limit_memory(patch: pytest.MonkeyPatch, too_large: str, max_batch: int = COUNT) -> None:
    """Run out of memory at one scene, and at batches of more than `max_batch` images."""
    forward = CLIPtrase.forward

    def forward_or_fail(self: CLIPtrase, batched_inputs: Any) -> Any:
        if len(batched_inputs) > max_batch or batched_inputs[0]["file_name"].endswith(too_large):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(self, batched_inputs)

    patch.setattr(CLIPtrase, "forward", forward_or_fail)


def _large_last_image(patch: pytest.MonkeyPatch) -> None:
    _limit_memory(patch, "scene_004.png")


FAULTS: dict[str, tuple[Fault, type[BaseException], str, int | None]] = {  # cause, error, message, finished images
    "Ctrl-C within a batch": (at_prediction(3, _interrupt), Interrupted, "2 of 5 images", 2),
    "Ctrl-C in the first batch": (at_prediction(1, _interrupt), Interrupted, "0 of 5 images", 0),
    "full disk at a prediction": (at_prediction(3, _fail_to_write), WriteError, "the file: ", 2),
    "full disk at the report": (_full_disk_at_report, WriteError, "the file: ", 5),
    "killed worker": (_kill_worker, InputError, r"DATALOADER\.NUM_WORKERS: .*--resume", None),
    "image too large": (_large_last_image, InputError, r"scene_004\.png: .*320x240.*80x64", 4),
}


@pytest.mark.parametrize("name", FAULTS)
def test_resume_after_a_fault_gives_the_results_of_an_undisturbed_run(
    tmp_path: Path, dataset: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    cause, error, message, finished = FAULTS[name]
    model = tiny_segmenter()
    undisturbed = config(tmp_path, "OUTPUT_DIR", str(tmp_path / "undisturbed"))
    evaluate_dataset(undisturbed, model, dataset)
    workers = "1" if name == "killed worker" else "0"
    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.INFO):
        cause(patch)
        with pytest.raises(error, match=message):
            evaluate_dataset(config(tmp_path, "DATALOADER.NUM_WORKERS", workers), model, dataset)
        if error is not Interrupted:
            assert f"of {COUNT} images are done, partial results are in {tmp_path}" in caplog.text
    assert not [*(tmp_path / "output").rglob("*.tmp"), *(tmp_path / "output").rglob("metrics.json")]
    caplog.clear()
    resumed = config(tmp_path, "TEST.BATCH_SIZE", "1")  # neither workers nor batches have to be the same
    with caplog.at_level(logging.INFO):
        evaluate_dataset(resumed, model, dataset, resume=True)
    if finished is not None:
        assert (f"resumed: {finished} of {COUNT} images were done" in caplog.text) == (finished > 0)
    assert read_results(resumed, dataset) == read_results(undisturbed, dataset)
    assert not list((tmp_path / "output").rglob("progress"))
    if finished is not None:
        timing = json.loads((Path(resumed.OUTPUT_DIR) / "inference" / dataset / "timing.json").read_text())
        assert timing["images"] == COUNT - finished


@pytest.mark.parametrize("too_large", ["", "scene_001.png"])
def test_too_little_memory_changes_no_result(
    tmp_path: Path, dataset: str, monkeypatch: pytest.MonkeyPatch, too_large: str
) -> None:
    cfg, model = config(tmp_path, "TEST.ON_ERROR", "skip", "TEST.BATCH_SIZE", "5"), tiny_segmenter()
    evaluate_dataset(cfg, model, dataset)
    report, predictions = read_results(cfg, dataset)
    _limit_memory(monkeypatch, too_large or "none", max_batch=1)
    cfg.OUTPUT_DIR = str(tmp_path / "limited")
    evaluate_dataset(cfg, model, dataset)
    limited_report, limited_predictions = read_results(cfg, dataset)
    assert limited_predictions == {name: data for name, data in predictions.items() if name != too_large}
    if too_large:
        assert (limited_report["images"], len(limited_report["skipped"])) == (4, 1)
        assert "memory" in limited_report["skipped"][0]["reason"]
    else:
        assert limited_report == report


def test_unwritable_output_folder_is_rejected_before_data_is_read(tmp_path: Path) -> None:
    (tmp_path / "output").touch()
    with pytest.raises(InputError, match=r"^OUTPUT_DIR: .*output"):
        evaluate_dataset(config(tmp_path), tiny_segmenter(), "no_such_set")
