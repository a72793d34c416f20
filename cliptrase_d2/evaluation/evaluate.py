"""Zero-shot evaluation: a model, a data set and a protocol become four numbers."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from tqdm import tqdm

from cliptrase_d2.d2 import CfgNode, comm
from cliptrase_d2.data.loader import (
    EvaluationLoader,
    build_evaluation_loader,
    file_names,
    list_records,
    split_batch,
    spread_over,
)
from cliptrase_d2.data.mapper import EvaluationMapper
from cliptrase_d2.data.packed_batch import BadRecord
from cliptrase_d2.evaluation.counts import Counts
from cliptrase_d2.evaluation.evaluator import (
    SegmentationEvaluator,
    mean_numbers,
    require_distinct_stems,
    results_folder,
)
from cliptrase_d2.evaluation.progress import Progress, ProgressWriter
from cliptrase_d2.evaluation.provenance import config_hash, data_hash, digest, versions
from cliptrase_d2.evaluation.unsupervised import UnsupervisedEvaluator
from cliptrase_d2.segmenter.build import Segmenting
from cliptrase_d2.utils.atomic_files import remove_unfinished, require_writable
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.interruption import Interrupted
from cliptrase_d2.utils.oom_retry import OOMRetry
from cliptrase_d2.utils.workers import explain_worker_deaths

logger = logging.getLogger(__name__)


def evaluate_dataset(
    cfg: CfgNode, model: Segmenting, name: str, *, resume: bool = False, log_table: bool = True
) -> dict[str, dict[str, float]]:
    """Evaluate on one registered data set, by the protocol and the sizes of the configuration.

    Args:
        cfg: read for everything but the model.
        model: of this configuration.
        name: of the data set.
        resume: go on where an earlier run was ended; else start anew.
        log_table: log all means and a row per class, not only a line.
    Returns:
        Detectron2's form, ``{"sem_seg": {metric: percent}}``; empty in every process but the first.
    Raises:
        InputError: an image or label that cannot be used, unless TEST.ON_ERROR is "skip"; a place that cannot be
            written; a reading process that died.
        Interrupted: at Ctrl-C, saying how far it has come.
    """
    require_writable(Path(cfg.OUTPUT_DIR), "OUTPUT_DIR")
    mapper = evaluation_mapper(cfg, model, name)
    records = list_records(name, cfg.TEST.ON_ERROR)
    overlays = _overlays(cfg, records)
    if cfg.TEST.SAVE_PREDICTIONS:
        require_distinct_stems(file_names(records), "TEST.SAVE_PREDICTIONS False")
    require_distinct_stems(overlays, "TEST.SAVE_OVERLAYS 0")
    evaluator = _evaluator(cfg, name, overlays, log_table)
    fingerprint = _fingerprint(cfg, name, records)
    progress = Progress(evaluator.folder / "progress", fingerprint, len(records), len(evaluator.classes))
    keeps_progress = not cfg.TEST.UNSUPERVISED_GROUPS  # groups are found over all images at once
    if resume and not keeps_progress:
        logger.info("%s: groups are found over all images at once, so the data set starts anew", name)
    done, earlier, generation = begin(progress, resume=resume and keeps_progress)
    loader = build_evaluation_loader(
        records,
        mapper,
        batch_size=cfg.TEST.BATCH_SIZE,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        on_error=cfg.TEST.ON_ERROR,
        done=done,
    )
    kept: dict[str, Any] = {}
    if keeps_progress:
        kept = {"done": done, "writer": progress.writer(generation, comm.get_rank()), "earlier": earlier}
    with _telling_how_far(progress, evaluator.folder):
        results = evaluate(model, loader, evaluator, name, **kept)
    comm.synchronize()  # the report is written
    if comm.get_local_rank() == 0:
        progress.clear()
    return results


def evaluation_mapper(cfg: CfgNode, model: Segmenting, name: str) -> EvaluationMapper:
    """Reads a registered data set for a model, by the protocol and the sizes of a configuration."""
    return EvaluationMapper.for_dataset(
        name,
        protocol=cfg.TEST.PROTOCOL,
        short_side=cfg.INPUT.MIN_SIZE_TEST,
        max_size=cfg.INPUT.MAX_SIZE_TEST,
        patch_size=model.patch_multiple,
        resampling=model.resampling,
        max_pixels=cfg.INPUT.MAX_PIXELS,
    )


@contextmanager
def _telling_how_far(progress: Progress, folder: Path) -> Iterator[None]:
    """Say, where an evaluation does not come to its end, what of it is kept."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise Interrupted(_how_far(progress, folder)) from stop
    except InputError:
        logger.info("%s", _how_far(progress, folder))
        raise


def _how_far(progress: Progress, folder: Path) -> str:
    images = int(progress.read()[0].sum())
    return f"{folder.name}: {images} of {progress.num_records} images are done, partial results are in {folder}"


def _evaluator(cfg: CfgNode, name: str, overlays: list[str], log_table: bool) -> SegmentationEvaluator:
    """That of words, or that of groups."""
    groups = cfg.TEST.UNSUPERVISED_GROUPS
    kind = partial(UnsupervisedEvaluator, groups=groups, seed=max(0, cfg.SEED)) if groups else SegmentationEvaluator
    return kind(
        name,
        cfg.OUTPUT_DIR,
        save_predictions=cfg.TEST.SAVE_PREDICTIONS,
        overlays=overlays,
        context={"protocol": _protocol(cfg), **_hashes(cfg, name), "versions": versions()},
        log_table=log_table,
    )


def begin(progress: Progress, *, resume: bool) -> tuple[np.ndarray, Counts, int]:
    """Where an evaluation begins: what is done already, what was counted in it, and the number of this run.

    The first process decides, for all of them must leave out the same records. Where machines share no folder, records
    that were done on another machine are done again.
    """
    done, earlier, generation = np.zeros(progress.num_records, dtype=bool), Counts.nothing(progress.num_classes), 1
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


def finished_evaluation(cfg: CfgNode, name: str) -> dict[str, dict[str, float]] | None:
    """What an earlier run found on a data set; None if it did not come to its end, or had another configuration,
    other classes or another label map.
    """
    path = results_folder(cfg.OUTPUT_DIR, name) / "metrics.json"
    if not path.is_file():
        return None
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # someone changed it
        return None
    if any(report.get(key) != value for key, value in _hashes(cfg, name).items()):
        return None
    return {"sem_seg": mean_numbers(report)}


def evaluate(
    model: nn.Module,
    loader: EvaluationLoader,
    evaluator: SegmentationEvaluator,
    title: str,
    *,
    done: np.ndarray | None = None,
    writer: ProgressWriter | None = None,
    earlier: Counts | None = None,
) -> dict[str, dict[str, float]]:
    """Run a model over a loader, with a progress bar, and return what the evaluator says.

    Args:
        model: takes and returns Detectron2's list of dicts.
        loader: lists of inputs; what could not be read is noted and left out.
        evaluator: reset here.
        title: of the progress bar.
        done: [number of records] bool, what the loader leaves out; None for nothing.
        writer: of this process's progress; None to keep none.
        earlier: what was counted in ``done``.
    """
    evaluator.reset()
    was_training = model.training
    model.eval()
    with explain_worker_deaths(f"the data set {title}"), _progress_bar(loader, title, done) as bar:
        try:
            _run(model, loader, evaluator, bar, writer)
        finally:  # an error or Ctrl-C costs nothing that was done
            if writer:
                writer.flush()
    model.train(was_training)
    seen = evaluator.counts.images + len(evaluator.counts.skipped)
    if seen != len(loader.indices):  # our own promise: nothing is lost silently
        raise RuntimeError(f"{len(loader.indices)} records were to be evaluated and {seen} were")
    return evaluator.evaluate(earlier)


def _run(
    model: nn.Module,
    loader: EvaluationLoader,
    evaluator: SegmentationEvaluator,
    bar: tqdm,
    writer: ProgressWriter | None,
) -> None:
    oom_retry = OOMRetry(model)
    position = 0
    for batch in loader:
        inputs, bad = split_batch(batch)
        # Masks at output size cost time and memory, and only the pictures show them.
        asked = [{**given, "output_masks": given["file_name"] in evaluator.overlays} for given in inputs]
        for members, outputs in oom_retry(asked):
            if isinstance(outputs, InputError):
                if loader.on_error == "stop":
                    raise outputs
                bad += [BadRecord(inputs[member]["file_name"], outputs) for member in members]
            else:
                evaluator.process([inputs[member] for member in members], outputs)
            del outputs  # else they take room until the next ones are there
        for record in bad:
            evaluator.skip(record.file_name, record.error)
        if writer:
            writer.done(loader.indices[position : position + len(batch)], evaluator.counts)
        position += len(batch)
        bar.update(min(len(batch) * comm.get_world_size(), (bar.total or 0) - bar.n))


def _progress_bar(loader: EvaluationLoader, title: str, done: np.ndarray | None) -> tqdm:
    """A bar over the images of all processes, of which the first draws it and knows only its own pace."""
    # A log file wants a line now and then, a terminal a bar that moves.
    interval = 0.2 if sys.stderr.isatty() else 10.0
    finished = 0 if done is None else int(done.sum())
    total = len(loader.indices) if done is None else len(done)
    return tqdm(
        total=total,
        initial=finished,
        desc=title,
        unit="image",
        mininterval=interval,
        disable=not comm.is_main_process(),
    )


def require_datasets(names: tuple[str, ...]) -> None:
    """Refuse to evaluate on nothing.

    Raises:
        InputError: no data set is named.
    """
    if not names:
        raise InputError(
            "DATASETS.TEST",
            "no data set",
            "Give --dataset D.yaml, or set DATASETS.TEST in the configuration.",
            allowed="names of registered data sets",
        )


def _overlays(cfg: CfgNode, records: list[Any]) -> list[str]:
    count = cfg.TEST.SAVE_OVERLAYS
    if count < 0:
        raise InputError("TEST.SAVE_OVERLAYS", count, "Use 0 or more.", allowed="a number of images, 0 for none")
    return spread_over(records, count) if count else []


def _hashes(cfg: CfgNode, name: str) -> dict[str, str]:
    return {"config_hash": config_hash(cfg), "data_hash": data_hash(name)}


def _fingerprint(cfg: CfgNode, name: str, records: list[Any]) -> str:
    """Changes with everything that decides what is counted: configuration, classes, list of files."""
    return digest(repr((_hashes(cfg, name), file_names(records))))


def _protocol(cfg: CfgNode) -> dict[str, Any]:
    protocol = {"name": cfg.TEST.PROTOCOL, "short_side": cfg.INPUT.MIN_SIZE_TEST}
    if cfg.TEST.PROTOCOL != "center_crop" and cfg.INPUT.MIN_SIZE_TEST:
        protocol["max_size"] = cfg.INPUT.MAX_SIZE_TEST
    if cfg.TEST.PROTOCOL in ("slide", "tiles"):
        protocol |= {"window": cfg.TEST.WINDOW, "stride": cfg.TEST.STRIDE}
    return protocol
