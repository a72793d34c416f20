"""Evaluate several methods on several data sets with one model, one after the other or batch by batch in turn."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing

from cliptrase_d2.d2 import CfgNode
from cliptrase_d2.evaluation.augmentation import check_augmentation
from cliptrase_d2.evaluation.compositions import (
    ARCHITECTURE,
    configure,
    find_impossible,
    read_composition,
    read_compositions,
    require_possible,
)
from cliptrase_d2.evaluation.evaluate import (
    SegmentationModel,
    Turns,
    build_bar,
    evaluate_dataset,
    evaluate_in_steps,
    find_results,
    require_datasets,
)
from cliptrase_d2.evaluation.summary import Run
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.modules import evaluation_mode
from cliptrase_d2.utils.shared_results import share_results
from cliptrase_d2.utils.workers import explain_worker_deaths

logger = logging.getLogger(__name__)
Prepare = Callable[[CfgNode, SegmentationModel | None], SegmentationModel]


def plan_runs(cfg: CfgNode) -> dict[Run, CfgNode]:
    """Return the runs of all TEST.METHODS on all DATASETS.TEST, in this order, each with its configuration.

    An entry of TEST.METHODS is a composition, see `methods/composition.py`. It writes to a folder of its name in
    OUTPUT_DIR. With TEST.SKIP_IMPOSSIBLE, impossible compositions are left out. Without methods the configuration is
    evaluated as it is.

    Raises:
        InputError: there is no data set, or one is unknown or has no class names; a method or a part is unknown or
            repeated, or entries cannot be evaluated, with the reason for each of them.
    """
    require_datasets(cfg.DATASETS.TEST)
    names = list(cfg.TEST.METHODS)
    if not names:
        check_augmentation(cfg)
    if ARCHITECTURE != cfg.MODEL.META_ARCHITECTURE and (names or cfg.TEST.UNSUPERVISED_GROUPS):
        got = f"{cfg.MODEL.META_ARCHITECTURE} with TEST.METHODS or TEST.UNSUPERVISED_GROUPS"
        raise InputError("MODEL.META_ARCHITECTURE", got, f"Remove these keys, which need {ARCHITECTURE}.")
    if names and cfg.MODEL.CLIPTRASE.METHOD_OPTIONS:
        got = f"{dict(cfg.MODEL.CLIPTRASE.METHOD_OPTIONS)} with TEST.METHODS, whose methods have their own options"
        fix = "Empty TEST.METHODS and set MODEL.CLIPTRASE.METHOD, or remove the options."
        raise InputError("MODEL.CLIPTRASE.METHOD_OPTIONS", got, fix)
    impossible = find_impossible(cfg)
    require_possible(cfg, impossible)
    possible = [one for one in read_compositions(cfg) if one.name not in impossible]
    methods = {one.name: configure(cfg, one) for one in possible} or {"": cfg}
    return {Run(name, dataset): changed for name, changed in methods.items() for dataset in cfg.DATASETS.TEST}


def evaluate_runs(
    runs: Mapping[Run, CfgNode], prepare: Prepare, *, resume: bool, model: SegmentationModel | None = None
) -> dict[Run, dict[str, float]]:
    """Evaluate the runs with one model. Weights and text features are shared by all of them.

    The runs on a data set take turns, batch by batch, so that CLIP's image tower, and a second model that several of
    them read, run once for an image (`share_results`). Unsupervised runs, which keep the masks of all images, run one
    after the other.

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
    kept = {run: find_results(cfg, run.dataset) for run, cfg in runs.items()} if resume else {}
    for run, cfg in runs.items():
        if not kept.get(run):
            model = prepare(cfg, model)  # a part that cannot be built ends the evaluation before its first image
    results: dict[Run, dict[str, float]] = {}
    for run, cfg in runs.items():
        metrics = kept.get(run)
        if run in results:
            continue
        if metrics:
            logger.info("%s: results of an earlier run with this configuration were kept", run)
            results[run] = metrics.get("sem_seg", {})
            continue
        group = {run: cfg}
        if not cfg.TEST.UNSUPERVISED_GROUPS:
            group = {other: runs[other] for other in runs if other.dataset == run.dataset and not kept.get(other)}
        for other in group:
            _log_start(other)
        if len(group) > 1:
            assert model is not None, "it was prepared above"
            results |= _take_turns(group, prepare, model, resume=resume)
            continue
        model = prepare(cfg, model)
        # A comparison is read in its one table, which the tables of every method would hide.
        metrics = evaluate_dataset(cfg, model, run.dataset, resume=resume, log_table=not run.method)
        results[run] = metrics.get("sem_seg", {})
    return {run: results[run] for run in runs}


def _log_start(run: Run) -> None:
    if run.method:
        composition = read_composition(run.method)
        logger.info("%s: %s (%s)", run, composition.title, composition.method.source)


def _take_turns(
    runs: Mapping[Run, CfgNode], prepare: Prepare, model: SegmentationModel, *, resume: bool
) -> dict[Run, dict[str, float]]:
    """Evaluate runs on one data set, batch by batch in turn."""
    logger.info("%d methods take turns, batch by batch, so that they share the image tower's results", len(runs))
    results: dict[Run, dict[str, float]] = {}
    dataset = next(iter(runs)).dataset
    with share_results(), explain_worker_deaths("the data set"), evaluation_mode(model), ExitStack() as stack:
        turns = Turns(len(runs), stack.enter_context(build_bar(f"{dataset}, {len(runs)} methods")))
        waiting = {
            run: stack.enter_context(
                closing(
                    evaluate_in_steps(
                        cfg, model, dataset, resume=resume, log_table=False, method=run.method, turns=turns
                    )
                )
            )
            for run, cfg in runs.items()
        }
        while waiting:
            for run, steps in list(waiting.items()):
                prepare(runs[run], model)
                try:
                    next(steps)
                except StopIteration as end:
                    results[run] = end.value.get("sem_seg", {})
                    del waiting[run]
    return results
