"""Evaluation of a model on a data set: the loop over its images, with progress on disk for --resume."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import Tensor
from tqdm import tqdm

from cliptrase_d2.config import ARGUMENT_KEYS
from cliptrase_d2.d2 import CfgNode, comm
from cliptrase_d2.data.loader import (
    BadRecord,
    EvaluationLoader,
    build_evaluation_loader,
    file_names,
    list_records,
    sample_evenly,
)
from cliptrase_d2.data.mapper import EvaluationMapper
from cliptrase_d2.data.palettes import find_palette_conflict
from cliptrase_d2.data.register import get_dataset_labels
from cliptrase_d2.evaluation.augmentation import AugmentedModel, check_augmentation
from cliptrase_d2.evaluation.confusion import Counts
from cliptrase_d2.evaluation.evaluator import (
    SegmentationEvaluator,
    extract_metrics,
    get_results_folder,
)
from cliptrase_d2.evaluation.object_sizes import ObjectMapper
from cliptrase_d2.evaluation.output_names import find_output_base
from cliptrase_d2.evaluation.progress import Progress, ProgressWriter
from cliptrase_d2.evaluation.provenance import digest, result_hashes, versions
from cliptrase_d2.evaluation.report.artefacts import write_timing
from cliptrase_d2.evaluation.unsupervised import UnsupervisedEvaluator
from cliptrase_d2.unknown import check_threshold
from cliptrase_d2.utils.atomic_files import remove_unfinished, require_writable
from cliptrase_d2.utils.errors import InputError, name_arguments
from cliptrase_d2.utils.interruption import Interrupted
from cliptrase_d2.utils.modules import evaluation_mode
from cliptrase_d2.utils.oom_retry import OOMRetry
from cliptrase_d2.utils.shared_results import count_saved_seconds
from cliptrase_d2.utils.workers import explain_worker_deaths

logger = logging.getLogger(__name__)
# An evaluation that pauses after every batch and returns its results.
Steps = Generator[None, None, dict[str, dict[str, float]]]


class SegmentationModel(Protocol):
    """A model that can be evaluated: an ``nn.Module`` that maps Detectron2's list of inputs to a list of outputs.

    Attributes:
        training: as in ``nn.Module``.
        patch_multiple: the sides of an image must be multiples of it, in pixels.
        resampling: filter that resizes images, one of Pillow's names in lower case.
        to_class_shares: converts an output ``sem_seg`` [C,H,W] to values whose mean over views of an image has a
            meaning, such as probabilities. Only test-time augmentation uses it.
    """

    training: bool

    @property
    def patch_multiple(self) -> int: ...

    @property
    def resampling(self) -> str: ...

    def __call__(self, batched_inputs: list[Any]) -> list[dict[str, Any]]: ...

    def to_class_shares(self, sem_seg: Tensor) -> Tensor: ...

    def eval(self) -> object: ...

    def train(self, mode: bool = ...) -> object: ...


def evaluate_dataset(
    cfg: CfgNode, model: SegmentationModel, name: str, *, resume: bool = False, log_table: bool = True
) -> dict[str, dict[str, float]]:
    """Evaluate a model on one registered data set, by the protocol and image sizes of the configuration.

    Args:
        cfg: everything but the model.
        model: built from this configuration.
        name: of the data set.
        resume: continue an earlier run that was stopped; otherwise start anew.
        log_table: log all means and a row per class, not only one line.
    Returns:
        As `evaluate_in_steps`.
    Raises:
        InputError, Interrupted: as `evaluate_in_steps`.
    """
    return _run_to_end(evaluate_in_steps(cfg, model, name, resume=resume, log_table=log_table))


class Turns(NamedTuple):
    """What evaluations that take turns have in common.

    Attributes:
        evaluations: their number. They divide the reading processes.
        bar: counts the images of all of them.
    """

    evaluations: int
    bar: tqdm


def evaluate_in_steps(
    cfg: CfgNode,
    model: SegmentationModel,
    name: str,
    *,
    resume: bool,
    log_table: bool,
    method: str = "",
    turns: Turns | None = None,
) -> Steps:
    """Evaluate as `evaluate_dataset`, with a pause after every batch, in which the model may be used for others.

    Before each step, the model must have the settings of the configuration again, and be in evaluation mode.

    Args:
        cfg, model, name, resume, log_table: of `evaluate_dataset`.
        method: name for the log; "" for none.
        turns: of this evaluation with others; None if it runs alone.
    Returns:
        Detectron2's form, ``{"sem_seg": {metric: percent}}``; empty in every process but the main one.
    Raises:
        InputError: an image or label cannot be used and TEST.ON_ERROR is "stop", the output folder cannot be written,
            or a worker process died.
        Interrupted: Ctrl-C; the message has the number of finished images.
    """
    require_writable(Path(cfg.OUTPUT_DIR), "OUTPUT_DIR")
    check_augmentation(cfg)
    check_evaluation_threshold(cfg)
    with name_arguments(ARGUMENT_KEYS):
        mapper = EvaluationMapper(cfg, name, patch_size=model.patch_multiple, resampling=model.resampling)
        records = list_records(name, cfg.TEST.ON_ERROR)
    log = {"log_table": log_table, "method": method}
    evaluator = _build_evaluator(cfg, name, records, getattr(model, "extra_models", {}), log)
    fingerprint = digest(repr((result_hashes(cfg, name), file_names(records))))
    progress = Progress(evaluator.folder / "progress", fingerprint, len(records), len(evaluator.classes))
    can_resume = not cfg.TEST.UNSUPERVISED_GROUPS  # groups are formed over all images at once
    if resume and not can_resume:
        logger.info("%s: groups are formed over all images at once, so the data set starts anew", name)
    done, earlier, generation = _start(progress, resume and can_resume)
    loader = build_evaluation_loader(
        records,
        # Unsupervised, the prediction of an image is not known before all others.
        mapper if cfg.TEST.UNSUPERVISED_GROUPS else ObjectMapper(mapper, mapper.label_rule.ignore_label),
        batch_size=cfg.TEST.BATCH_SIZE,
        num_workers=-(-cfg.DATALOADER.NUM_WORKERS // (turns.evaluations if turns else 1)),
        on_error=cfg.TEST.ON_ERROR,
        done=done,
    )
    writer = progress.writer(generation, comm.get_rank()) if can_resume else None
    if cfg.TEST.AUG.ENABLED:
        model = AugmentedModel(model, flip=cfg.TEST.AUG.FLIP)
    with (
        _report_finished_images(progress, evaluator.folder),
        nullcontext(turns.bar) if turns else build_bar(name) as bar,
    ):
        results = yield from _evaluate(model, loader, evaluator, bar, done=done, writer=writer, earlier=earlier)
    if comm.is_main_process():
        readable = [record for record in records if not isinstance(record, BadRecord)]
        labels = [record["sem_seg_file_name"] for record in readable if "sem_seg_file_name" in record]
        if conflict := find_palette_conflict(labels, mapper.label_rule):
            logger.warning("%s: %s", name, conflict)
    comm.synchronize()  # the report is on disk
    if comm.get_local_rank() == 0:
        progress.clear()
    return results


def check_evaluation_threshold(cfg: CfgNode) -> None:
    """Check TEST.THRESHOLD and the settings that it cannot be combined with.

    Raises:
        InputError: it is not in 0 to 1, or the evaluation has no scores of single pixels.
    """
    threshold = check_threshold(cfg.TEST.THRESHOLD, "TEST.THRESHOLD")
    others = {
        "TEST.AUG.ENABLED": cfg.TEST.AUG.ENABLED,
        "TEST.UNSUPERVISED_GROUPS": cfg.TEST.UNSUPERVISED_GROUPS,
        "TEST.PROTOCOL 'published'": cfg.TEST.PROTOCOL == "published",  # TEST.PUBLISHED.PROB_THD takes its place
    }
    for other, is_set in others.items():
        if threshold and is_set:
            got = f"{threshold} with {other}, which has no scores on one grid"
            raise InputError("TEST.THRESHOLD", got, "Set one of them to its default.")


def find_results(cfg: CfgNode, name: str) -> dict[str, dict[str, float]] | None:
    """Return the result of ``evaluate_dataset`` in an earlier run.

    Return None if that run did not finish or had another configuration, other classes or another label map.
    """
    path = get_results_folder(cfg.OUTPUT_DIR, name) / "metrics.json"
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # not written yet, or edited by hand
        return None
    if any(report.get(key) != value for key, value in result_hashes(cfg, name).items()):
        return None
    return {"sem_seg": extract_metrics(report)}


def evaluate(
    model: SegmentationModel,
    loader: EvaluationLoader,
    evaluator: SegmentationEvaluator,
    *,
    done: np.ndarray | None = None,
    writer: ProgressWriter | None = None,
    earlier: Counts | None = None,
) -> dict[str, dict[str, float]]:
    """Run a model over a loader, with a progress bar, and return the evaluator's results.

    Args:
        model: set to evaluation mode meanwhile.
        loader: lists of inputs; records that could not be read are noted and left out.
        evaluator: reset here.
        done: [number of records] bool, the records that the loader leaves out; None for none.
        writer: of this process's progress; None to write none.
        earlier: counts of the records in ``done``.
    """
    with build_bar(evaluator.dataset_name) as bar:
        return _run_to_end(_evaluate(model, loader, evaluator, bar, done=done, writer=writer, earlier=earlier))


def _run_to_end(steps: Steps) -> dict[str, dict[str, float]]:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            results: dict[str, dict[str, float]] = end.value
            return results


def build_bar(title: str) -> tqdm:
    """Return a progress bar in images, whose total grows with every evaluation that starts."""
    return tqdm(
        total=0,
        desc=title,
        unit="image",
        delay=1e-9,  # the total is not known yet
        mininterval=0.2 if sys.stderr.isatty() else 10.0,  # a log file needs fewer lines
        disable=not comm.is_main_process() or bool(os.environ.get("TQDM_DISABLE")),
    )


class _Clock:
    """Measures the time of an evaluation without its pauses. Starts at once.

    Attributes:
        seconds: between starts and stops.
        saved: by results that other evaluations had computed.
    """

    def __init__(self) -> None:
        self.seconds, self.saved = 0.0, 0.0
        self.start()

    def start(self) -> None:
        self._start, self._saved = time.monotonic(), count_saved_seconds()

    def stop(self) -> None:
        self.seconds += time.monotonic() - self._start
        self.saved += count_saved_seconds() - self._saved


def _evaluate(
    model: SegmentationModel,
    loader: EvaluationLoader,
    evaluator: SegmentationEvaluator,
    bar: tqdm,
    *,
    done: np.ndarray | None,
    writer: ProgressWriter | None,
    earlier: Counts | None,
) -> Steps:
    evaluator.reset()
    total, num_done = (len(loader.indices), 0) if done is None else (len(done), int(done.sum()))
    if not bar.disable:
        bar.total = (bar.total or 0) + total
        bar.initial, bar.n = bar.initial + num_done, bar.n + num_done
    position, num_shown, clock = 0, num_done, _Clock()
    with explain_worker_deaths(f"the data set {evaluator.dataset_name}"), evaluation_mode(model):
        try:
            for size in _process_batches(model, loader, evaluator):
                if writer:
                    writer.done(loader.indices[position : position + size], evaluator.counts)
                position += size
                # Other processes are assumed to be as fast as this one.
                shown = min(num_done + position * comm.get_world_size(), total)
                bar.update(shown - num_shown)
                num_shown = shown
                clock.stop()
                yield
                clock.start()
        finally:  # an error or Ctrl-C must not lose finished images
            if writer:
                writer.flush()
    num_seen = evaluator.counts.images + len(evaluator.counts.skipped)
    if num_seen != len(loader.indices):
        raise RuntimeError(f"{num_seen} of {len(loader.indices)} records were evaluated")
    comm.synchronize()  # the time of the slowest process counts
    if comm.is_main_process():
        clock.stop()
        write_timing(evaluator.folder, clock.seconds, clock.saved, total - num_done)
    return evaluator.evaluate(earlier)


def _process_batches(
    model: SegmentationModel, loader: EvaluationLoader, evaluator: SegmentationEvaluator
) -> Iterator[int]:
    """Pass every batch through model and evaluator; yield its size."""
    oom_retry = OOMRetry(model)
    for batch in loader:
        bad_records = [item for item in batch if isinstance(item, BadRecord)]
        images = [item for item in batch if not isinstance(item, BadRecord)]
        # Masks and class scores at output size cost time and memory. Only overlays need masks.
        inputs = [
            {
                **image,
                "output_masks": image["file_name"] in evaluator.overlays,
                "output_sem_seg": False,
                **({"threshold": evaluator.threshold} if evaluator.threshold else {}),
            }
            for image in images
        ]
        for members, outputs in oom_retry(inputs):
            if isinstance(outputs, InputError):
                if loader.on_error == "stop":
                    raise outputs
                bad_records += [BadRecord(images[member]["file_name"], outputs) for member in members]
            else:
                evaluator.process([images[member] for member in members], outputs)
            del outputs  # frees their memory before the next ones are computed
        for record in bad_records:
            evaluator.skip(record.file_name, record.error)
        yield len(batch)


def require_datasets(names: Sequence[str]) -> None:
    """Check that at least one data set is named, and that all of them are registered and have class names.

    Args:
        names: value of DATASETS.TEST.
    Raises:
        InputError: there is none, or one cannot be evaluated.
    """
    if not names:
        raise InputError("DATASETS.TEST", "no data set", "Set it in the configuration, or give --dataset D.yaml.")
    with name_arguments(ARGUMENT_KEYS):
        for name in names:
            get_dataset_labels(name)


def _build_evaluator(
    cfg: CfgNode, name: str, records: Sequence[Any], extra_models: Mapping[str, Any], log: Mapping[str, Any]
) -> SegmentationEvaluator:
    if cfg.TEST.SAVE_OVERLAYS < 0:
        raise InputError("TEST.SAVE_OVERLAYS", cfg.TEST.SAVE_OVERLAYS, "Set a number of images.", allowed="0 or more")
    overlays = sample_evenly(records, cfg.TEST.SAVE_OVERLAYS)
    if cfg.TEST.SAVE_PREDICTIONS:
        base = find_output_base(file_names(records), "TEST.SAVE_PREDICTIONS False")
    else:
        base = find_output_base(overlays, "TEST.SAVE_OVERLAYS 0")
    arguments: dict[str, Any] = {
        "save_predictions": cfg.TEST.SAVE_PREDICTIONS,
        "prediction_values": cfg.TEST.PREDICTION_VALUES,
        "output_base": base,
        "overlays": overlays,
        "context": {
            "protocol": _describe_protocol(cfg),
            **({"extra_models": extra_models} if extra_models else {}),
            **result_hashes(cfg, name),
            "versions": versions(),
        },
        **log,
    }
    if cfg.TEST.UNSUPERVISED_GROUPS:
        arguments |= {"groups": cfg.TEST.UNSUPERVISED_GROUPS, "seed": max(0, cfg.SEED)}
        return UnsupervisedEvaluator(name, cfg.OUTPUT_DIR, **arguments)
    return SegmentationEvaluator(name, cfg.OUTPUT_DIR, threshold=cfg.TEST.THRESHOLD, **arguments)


def _describe_protocol(cfg: CfgNode) -> dict[str, Any]:
    protocol = {"name": cfg.TEST.PROTOCOL, "short_side": cfg.INPUT.MIN_SIZE_TEST}
    if cfg.TEST.PROTOCOL != "center_crop" and cfg.INPUT.MIN_SIZE_TEST:
        protocol["max_size"] = cfg.INPUT.MAX_SIZE_TEST
    if cfg.TEST.PROTOCOL in ("slide", "tiles", "published"):
        protocol |= {"window": cfg.TEST.WINDOW, "stride": cfg.TEST.STRIDE}
    if cfg.TEST.PROTOCOL == "published":
        protocol |= {key.lower(): value for key, value in cfg.TEST.PUBLISHED.items()}
    if cfg.TEST.THRESHOLD:
        protocol["threshold"] = cfg.TEST.THRESHOLD
    if cfg.TEST.AUG.ENABLED:
        views = cfg.TEST.AUG
        protocol["views"] = {"short_sides": list(views.MIN_SIZES), "max_size": views.MAX_SIZE, "flip": views.FLIP}
    return protocol


def _start(progress: Progress, resume: bool) -> tuple[np.ndarray, Counts, int]:
    """Return the finished records, their counts and the generation of this run.

    The main process decides, because all processes must leave out the same records. If machines do not share the
    folder, records that another machine finished are evaluated again.
    """
    done, earlier, generation = np.zeros(progress.num_records, dtype=bool), Counts.empty(progress.num_classes), 1
    if comm.is_main_process():
        remove_unfinished(progress.folder.parent)
        if resume:
            done, earlier = progress.read()
        if done.any():
            logger.info("resumed: %d of %d images were done", done.sum(), len(done))
            generation = progress.next_generation()
        else:
            progress.clear()
    done, generation = comm.all_gather((done, generation))[0]
    return done, earlier, generation


@contextmanager
def _report_finished_images(progress: Progress, folder: Path) -> Iterator[None]:
    """Say how many images are finished if the evaluation stops early."""
    try:
        yield
    except (KeyboardInterrupt, InputError) as error:
        images = int(progress.read()[0].sum())
        text = f"{folder.name}: {images} of {progress.num_records} images are done, partial results are in {folder}"
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted(text) from error
        logger.info("%s", text)
        raise
