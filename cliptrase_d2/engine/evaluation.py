"""Zero-shot evaluation: a model, a data set and a protocol become four numbers."""

from __future__ import annotations

import json
import sys
from typing import Any

from torch import nn
from tqdm import tqdm

from cliptrase_d2.d2 import CfgNode, comm
from cliptrase_d2.data.loader import EvaluationLoader, build_evaluation_loader, split_batch, spread_over
from cliptrase_d2.data.mapper import EvaluationMapper
from cliptrase_d2.engine.provenance import config_hash, data_hash, versions
from cliptrase_d2.errors import InputError
from cliptrase_d2.evaluation.evaluator import SegmentationEvaluator, mean_numbers, results_folder
from cliptrase_d2.meta_arch import CLIPtrase


def evaluate_dataset(
    cfg: CfgNode, model: CLIPtrase, name: str, *, log_table: bool = True
) -> dict[str, dict[str, float]]:
    """Evaluate on one registered data set, by the protocol and the sizes of the configuration.

    Args:
        cfg: read for everything but the model.
        model: of this configuration.
        name: of the data set.
        log_table: log all means and a row per class, not only a line.
    Returns:
        Detectron2's form, ``{"sem_seg": {metric: percent}}``; empty in every process but the first.
    Raises:
        InputError: an image or label that cannot be used, unless TEST.ON_ERROR is "skip".
    """
    mapper = EvaluationMapper.for_dataset(
        name,
        protocol=cfg.TEST.PROTOCOL,
        short_side=cfg.INPUT.MIN_SIZE_TEST,
        max_size=cfg.INPUT.MAX_SIZE_TEST,
        patch_size=model.tower.patch_size,
    )
    loader = build_evaluation_loader(
        name,
        mapper,
        batch_size=cfg.TEST.BATCH_SIZE,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        on_error=cfg.TEST.ON_ERROR,
    )
    evaluator = SegmentationEvaluator(
        name,
        cfg.OUTPUT_DIR,
        save_predictions=cfg.TEST.SAVE_PREDICTIONS,
        overlays=_overlays(cfg, name),
        context={"protocol": _protocol(cfg), **_hashes(cfg, name), "versions": versions()},
        log_table=log_table,
    )
    return evaluate(model, loader, evaluator, name)


def finished_evaluation(cfg: CfgNode, name: str) -> dict[str, dict[str, float]] | None:
    """What an earlier run found on a data set; None if it did not come to its end, or had another configuration,
    other classes or another label map.
    """
    path = results_folder(cfg.OUTPUT_DIR, name) / "metrics.json"
    if not path.is_file():
        return None
    report = json.loads(path.read_text(encoding="utf-8"))
    if any(report.get(key) != value for key, value in _hashes(cfg, name).items()):
        return None
    return {"sem_seg": mean_numbers(report)}


def evaluate(
    model: nn.Module, loader: EvaluationLoader, evaluator: SegmentationEvaluator, title: str
) -> dict[str, dict[str, float]]:
    """Run a model over a loader, with a progress bar, and return what the evaluator says.

    Args:
        model: takes and returns Detectron2's list of dicts.
        loader: lists of inputs; what could not be read is noted and left out.
        evaluator: reset here.
        title: of the progress bar.
    """
    evaluator.reset()
    was_training = model.training
    model.eval()
    # A log file wants a line now and then, a terminal a bar that moves.
    interval = 0.2 if sys.stderr.isatty() else 10.0
    quiet = not comm.is_main_process()
    with tqdm(total=len(loader.dataset), desc=title, unit="image", mininterval=interval, disable=quiet) as bar:  # type: ignore[arg-type]
        for batch in loader:
            inputs, bad = split_batch(batch)
            if inputs:
                evaluator.process(inputs, model(inputs))
            for record in bad:
                evaluator.skip(record.file_name, record.error)
            bar.update(len(batch))
    model.train(was_training)
    comm.synchronize()
    return evaluator.evaluate()


def require_datasets(names: tuple[str, ...]) -> None:
    """Refuse to evaluate on nothing.

    Raises:
        InputError: no data set is named.
    """
    if not names:
        raise InputError(
            "DATASETS.TEST",
            "no data set",
            "names of registered data sets",
            "Give --dataset D.yaml, or set DATASETS.TEST in the configuration.",
        )


def _overlays(cfg: CfgNode, name: str) -> list[str]:
    count = cfg.TEST.SAVE_OVERLAYS
    if count < 0:
        raise InputError("TEST.SAVE_OVERLAYS", count, "a number of images, 0 for none", "Use 0 or more.")
    return spread_over(name, count, cfg.TEST.ON_ERROR) if count else []


def _hashes(cfg: CfgNode, name: str) -> dict[str, str]:
    return {"config_hash": config_hash(cfg), "data_hash": data_hash(name)}


def _protocol(cfg: CfgNode) -> dict[str, Any]:
    protocol = {"name": cfg.TEST.PROTOCOL, "short_side": cfg.INPUT.MIN_SIZE_TEST}
    if cfg.TEST.PROTOCOL != "center_crop":
        protocol["max_size"] = cfg.INPUT.MAX_SIZE_TEST
    if cfg.TEST.PROTOCOL == "slide":
        protocol |= {"window": cfg.TEST.WINDOW, "stride": cfg.TEST.STRIDE}
    return protocol
