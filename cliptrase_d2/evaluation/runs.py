"""Evaluate several methods on several data sets, one after the other, with one model."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping

from cliptrase_d2.d2 import CfgNode
from cliptrase_d2.evaluation.augmentation import check_augmentation
from cliptrase_d2.evaluation.evaluate import SegmentationModel, evaluate_dataset, find_results, require_datasets
from cliptrase_d2.evaluation.summary import Run
from cliptrase_d2.methods.catalog import METHODS
from cliptrase_d2.utils.errors import InputError, suggest

logger = logging.getLogger(__name__)
_WITH_METHODS = "CLIPtrase"  # the architecture whose method can be changed
Prepare = Callable[[CfgNode, SegmentationModel | None], SegmentationModel]


def plan_runs(cfg: CfgNode) -> dict[Run, CfgNode]:
    """Return the runs of all TEST.METHODS on all DATASETS.TEST, in this order, each with its configuration.

    A method writes to a folder of its name in OUTPUT_DIR. Without methods the configuration is evaluated as it is.

    Raises:
        InputError: there is no data set, or one is unknown or has no class names; a method is unknown or repeated, or
            the configuration does not fit a method.
    """
    require_datasets(cfg.DATASETS.TEST)
    check_augmentation(cfg)
    names = list(cfg.TEST.METHODS)
    if _WITH_METHODS != cfg.MODEL.META_ARCHITECTURE and (names or cfg.TEST.UNSUPERVISED_GROUPS):
        got = f"{cfg.MODEL.META_ARCHITECTURE} with TEST.METHODS or TEST.UNSUPERVISED_GROUPS"
        raise InputError("MODEL.META_ARCHITECTURE", got, f"Remove these keys, which need {_WITH_METHODS}.")
    if names and cfg.MODEL.CLIPTRASE.METHOD_OPTIONS:
        got = f"{dict(cfg.MODEL.CLIPTRASE.METHOD_OPTIONS)} with TEST.METHODS, whose methods have their own options"
        fix = "Empty TEST.METHODS and set MODEL.CLIPTRASE.METHOD, or remove the options."
        raise InputError("MODEL.CLIPTRASE.METHOD_OPTIONS", got, fix)
    for name in names:
        _check_name(name, names)
    methods = {name: _configure(cfg, name) for name in names} or {"": cfg}
    return {Run(name, dataset): changed for name, changed in methods.items() for dataset in cfg.DATASETS.TEST}


def evaluate_runs(
    runs: Mapping[Run, CfgNode], prepare: Prepare, *, resume: bool, model: SegmentationModel | None = None
) -> dict[Run, dict[str, float]]:
    """Evaluate the runs with one model. Weights and text features are shared by all of them.

    Args:
        runs: as `plan_runs` returns them.
        prepare: builds the model of a configuration, or changes the settings of an existing one.
        resume: keep the results of finished runs with the same configuration and data.
        model: an existing model; None to build one when it is needed.
    Returns:
        Percent by metric; empty in every process but the first.
    Raises:
        InputError: a model, image or label cannot be used.
    """
    results: dict[Run, dict[str, float]] = {}
    for run, cfg in runs.items():
        metrics = find_results(cfg, run.dataset) if resume else None
        if metrics:
            logger.info("%s: results of an earlier run with this configuration were kept", run)
        else:
            if run.method:
                logger.info("%s: %s (%s)", run, METHODS[run.method].title, METHODS[run.method].source)
            model = prepare(cfg, model)
            # A comparison is read in its one table, which the tables of every method would hide.
            metrics = evaluate_dataset(cfg, model, run.dataset, resume=resume, log_table=not run.method)
        results[run] = metrics.get("sem_seg", {})
    return results


def _check_name(name: object, names: list[object]) -> None:
    if name not in list(METHODS):
        fix = suggest(name, METHODS, "Use some of these.")
        raise InputError("TEST.METHODS", f"unknown method {name!r}", fix, allowed=", ".join(METHODS))
    if names.count(name) > 1:
        raise InputError("TEST.METHODS", f"the method {name!r} twice", "Remove one of them.")


def _configure(cfg: CfgNode, name: str) -> CfgNode:
    """Return the configuration of a method. It equals one that sets these keys itself and names no method."""
    method = METHODS[name]
    if method.needs_clusters and cfg.MODEL.CLIPTRASE.CLUSTERING == "none":
        got, allowed = f"'none', but {name!r} in TEST.METHODS needs clusters", "dbscan or hdbscan"
        raise InputError("MODEL.CLIPTRASE.CLUSTERING", got, "Change it, or remove the method.", allowed=allowed)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.TEST.METHODS = ()
    cfg.OUTPUT_DIR = os.path.join(cfg.OUTPUT_DIR, name)
    cfg.MODEL.CLIPTRASE.update({key.upper(): value for key, value in method.settings.items()})
    cfg.MODEL.CLIPTRASE.METHOD_OPTIONS.update(method.options)
    cfg.freeze()
    return cfg
