"""Evaluations that something ends: what they say, what they leave, and that --resume then finds the same as ever."""

from __future__ import annotations

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
from cliptrase_d2.data.register import register_dataset
from cliptrase_d2.evaluation import evaluator
from cliptrase_d2.evaluation.evaluate import evaluate_dataset
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.utils.errors import InputError, WriteError
from cliptrase_d2.utils.interruption import Interrupted
from tests.drawn_scenes import CLASSES, write_scenes
from tests.pipeline.tiny_segmenter import tiny_config, tiny_segmenter

COUNT = 5
Fault = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    write_scenes(tmp_path, COUNT)
    return register_dataset(f"faults_{tmp_path.name}", tmp_path / "images", CLASSES, tmp_path / "annotations")


def config(folder: Path, *options: str) -> CfgNode:
    return tiny_config(folder, "TEST.SAVE_PREDICTIONS", "True", "TEST.BATCH_SIZE", "2", *options)


def written(cfg: CfgNode, dataset: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    """metrics.json and the predictions by name."""
    folder = Path(cfg.OUTPUT_DIR) / "inference" / dataset
    predictions = {path.name: path.read_bytes() for path in (folder / "predictions").iterdir()}
    return json.loads((folder / "metrics.json").read_text()), predictions


def _no_room(*_: object) -> None:
    raise WriteError.of("the file", OSError(28, "No space left on device"))


def _interrupted(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGINT)


def at_prediction(number: int, fault: Callable[..., None]) -> Fault:
    """A fault when the prediction of an image, counted from 1, is written, the image being counted already."""

    def arrange(patch: pytest.MonkeyPatch) -> None:
        save, calls = evaluator.SegmentationEvaluator.save, []

        def failing(self: evaluator.SegmentationEvaluator, *arguments: Any) -> None:
            calls.append(1)
            if len(calls) == number:
                fault()
            save(self, *arguments)

        patch.setattr(evaluator.SegmentationEvaluator, "save", failing)

    return arrange


def _at_the_report(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(evaluator, "atomic_write_text", _no_room)


def _killed_worker(patch: pytest.MonkeyPatch) -> None:
    read, here = EvaluationMapper.__call__, os.getpid()

    def dies(self: EvaluationMapper, record: Any) -> Any:
        if os.getpid() != here and record["file_name"].endswith("scene_004.png"):
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self, record)

    patch.setattr(EvaluationMapper, "__call__", dies)


def _no_memory_for_the_last(patch: pytest.MonkeyPatch) -> None:
    forward = CLIPtrase.forward

    def short(self: CLIPtrase, batched_inputs: Any) -> Any:
        if batched_inputs[0]["file_name"].endswith("scene_004.png"):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(self, batched_inputs)

    patch.setattr(CLIPtrase, "forward", short)


FAULTS: dict[str, tuple[Fault, type[BaseException], str, int | None]] = {  # what, its error, what it says, images kept
    "Ctrl-C within a batch": (
        at_prediction(3, _interrupted),
        Interrupted,
        "2 of 5 images are done, partial results",
        2,
    ),
    "Ctrl-C in the first batch": (at_prediction(1, _interrupted), Interrupted, "0 of 5 images are done", 0),
    "full disk at a prediction": (
        at_prediction(3, _no_room),
        WriteError,
        "the file: cannot be written.*Free some space",
        2,
    ),
    "full disk at the report": (_at_the_report, WriteError, "the file: cannot be written.*Free", 5),
    "killed worker": (_killed_worker, InputError, "a process that was reading .*NUM_WORKERS.*--resume goes on", None),
    "image too large": (_no_memory_for_the_last, InputError, r"scene_004\.png: .*320x240 pixels, seen at 80x64", 4),
}


@pytest.mark.parametrize("name", FAULTS)
def test_resume_after_a_fault_finds_what_a_whole_run_does(
    tmp_path: Path, dataset: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    arrange, kind, said, kept = FAULTS[name]
    model = tiny_segmenter()
    whole = config(tmp_path, "OUTPUT_DIR", str(tmp_path / "whole"))
    evaluate_dataset(whole, model, dataset)
    workers = "1" if name == "killed worker" else "0"
    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.INFO):
        arrange(patch)
        with pytest.raises(kind, match=said):
            evaluate_dataset(config(tmp_path, "DATALOADER.NUM_WORKERS", workers), model, dataset)
        if kind is not Interrupted:
            assert f"of {COUNT} images are done, partial results are in {tmp_path}" in caplog.text
    assert not list((tmp_path / "output").rglob("*.tmp"))
    assert not list((tmp_path / "output").rglob("metrics.json"))
    caplog.clear()
    # As the message says: without reading processes, and with a smaller batch, an evaluation goes on all the same.
    resumed = config(tmp_path, "TEST.BATCH_SIZE", "1")
    with caplog.at_level(logging.INFO):
        evaluate_dataset(resumed, model, dataset, resume=True)
    if kept is not None:
        assert (f"resumed: {kept} of {COUNT} images were done" in caplog.text) == (kept > 0)
    assert written(resumed, dataset) == written(whole, dataset)
    assert not list((tmp_path / "output").rglob("progress"))


def test_an_earlier_report_stays_where_there_is_no_room_for_a_new_one(tmp_path: Path, dataset: str) -> None:
    cfg, model = config(tmp_path), tiny_segmenter()
    evaluate_dataset(cfg, model, dataset)
    before = written(cfg, dataset)
    with pytest.MonkeyPatch.context() as patch:
        _at_the_report(patch)
        with pytest.raises(WriteError):
            evaluate_dataset(cfg, model, dataset)
    assert written(cfg, dataset) == before


@pytest.mark.parametrize("fits_alone", [True, False])
def test_too_little_memory_changes_no_result(
    tmp_path: Path, dataset: str, monkeypatch: pytest.MonkeyPatch, fits_alone: bool
) -> None:
    cfg, model = config(tmp_path, "TEST.ON_ERROR", "skip", "TEST.BATCH_SIZE", "5"), tiny_segmenter()
    evaluate_dataset(cfg, model, dataset)
    before, predictions = written(cfg, dataset)
    forward = CLIPtrase.forward

    def short(self: CLIPtrase, batched_inputs: Any) -> Any:
        if len(batched_inputs) > 1 or (not fits_alone and "scene_001" in batched_inputs[0]["file_name"]):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(self, batched_inputs)

    monkeypatch.setattr(CLIPtrase, "forward", short)
    cfg.OUTPUT_DIR = str(tmp_path / "short")
    evaluate_dataset(cfg, model, dataset)
    found, with_less = written(cfg, dataset)
    if fits_alone:
        assert (found, with_less) == (before, predictions)
        return
    assert (found["images"], len(found["skipped"])) == (4, 1)
    assert "for which the memory is too small" in found["skipped"][0]["reason"]
    assert with_less == {name: data for name, data in predictions.items() if name != "scene_001.png"}


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "output").touch()
    with pytest.raises(InputError, match=r"^OUTPUT_DIR: .*output', which cannot be written \(File exists\)"):
        evaluate_dataset(config(tmp_path), tiny_segmenter(), "no_such_set")
