"""Training from a configuration: data, model, optimizer, schedule, hooks and resuming."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from fvcore.common.param_scheduler import PolynomialDecayParamScheduler
from torch import nn

from cliptrase_d2.d2 import (
    CfgNode,
    CommonMetricPrinter,
    EventWriter,
    HookBase,
    JSONWriter,
    LRMultiplier,
    TensorboardXWriter,
    WarmupParamScheduler,
    build_lr_scheduler,
    comm,
    create_ddp_model,
    hooks,
)
from cliptrase_d2.data.loader import list_records
from cliptrase_d2.data.register import get_dataset_labels, get_rendering
from cliptrase_d2.data.rendering import Rendering
from cliptrase_d2.evaluation.evaluate import evaluate_dataset, require_datasets
from cliptrase_d2.evaluation.metrics import drop_class_metrics
from cliptrase_d2.san.checkpoints import find_last_checkpoint
from cliptrase_d2.san.model import SAN
from cliptrase_d2.san.trainer import TRAINING_IMAGES, SANTrainer
from cliptrase_d2.san.training_data import Augmentation, TrainingDataset, load_batches
from cliptrase_d2.san.unlabelled import build_unlabelled_config, build_unlabelled_dataset, check_unlabelled
from cliptrase_d2.san.warm_start import start_queries
from cliptrase_d2.segmenter.build import load_weights
from cliptrase_d2.utils.atomic_files import remove_unfinished
from cliptrase_d2.utils.errors import InputError, check_choice, name_arguments
from cliptrase_d2.utils.interruption import Interrupted
from cliptrase_d2.utils.workers import explain_worker_deaths

logger = logging.getLogger(__name__)
FULL_MODEL = "full_model"  # SOLVER.CLIP_GRADIENTS.CLIP_TYPE: clip the norm of all gradients together
_LOG_PERIOD = 20  # iterations
_EMBEDDINGS = ("positional_embedding", "pos_embed", "query_embed")
_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


def train(cfg: CfgNode, *, resume: bool) -> SAN:
    """Train SAN on DATASETS.TRAIN and evaluate it on DATASETS.TEST every TEST.EVAL_PERIOD iterations.

    Args:
        cfg: the whole configuration.
        resume: continue from the last checkpoint in OUTPUT_DIR, if there is one.
    Returns:
        The trained model.
    Raises:
        InputError: an unusable model, data set or setting.
        NonFiniteLossError: a loss became infinite or NaN.
        WriteError: the disk is full; earlier checkpoints are unchanged.
        Interrupted: at Ctrl-C, with the number of completed steps.
    """
    check_architecture(cfg)
    dataset = build_dataset(cfg)
    if cfg.DATASETS.TEST:
        require_datasets(cfg.DATASETS.TEST)
    read_batch_size(cfg)
    check_unlabelled(cfg)
    san = SAN(cfg).to(cfg.MODEL.DEVICE)  # type: ignore[call-arg, arg-type]  # configurable
    if comm.is_main_process():
        remove_unfinished(Path(cfg.OUTPUT_DIR))
    comm.synchronize()
    is_resumed = resume and bool(find_last_checkpoint(cfg.OUTPUT_DIR))
    if not is_resumed:
        _start(cfg, san, dataset, resume=resume)
    _run_steps(cfg, san, lambda seed: dataset, resume=is_resumed)
    return san


def _start(cfg: CfgNode, san: SAN, dataset: TrainingDataset, *, resume: bool) -> None:
    """Apply the warm start, load MODEL.WEIGHTS, and run the iterations without labels.

    For a warm start, the seconds and the evaluation of the result are written to metrics.json as iteration -1.
    """
    begin = time.perf_counter()
    first, count = build_unlabelled_config(cfg), cfg.SOLVER.UNLABELLED_ITER
    if not (count and resume and find_last_checkpoint(first.OUTPUT_DIR)):
        start_queries(cfg, san)
        load_weights(cfg, san)
    if count:
        Path(first.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
        _run_steps(first, san, partial(build_unlabelled_dataset, first, dataset, resume=resume), resume=resume)
    if not count and cfg.MODEL.SAN.QUERY_INIT == "none":
        return
    numbers: dict[str, float] = {"iteration": -1, "start_seconds": time.perf_counter() - begin}
    if cfg.TEST.EVAL_PERIOD and (count or cfg.MODEL.SAN.QUERY_INIT == "closed_form"):
        for name, metrics in evaluate_all(cfg, san).items():
            numbers |= {f"{name}/{metric}": value for metric, value in metrics.items()}
    if comm.is_main_process():
        with (Path(cfg.OUTPUT_DIR) / "metrics.json").open("a", encoding="utf-8") as file:
            file.write(json.dumps(numbers, sort_keys=True) + "\n")


def evaluate_all(cfg: CfgNode, san: SAN) -> dict[str, dict[str, float]]:
    """Return {data set: {metric: percent}}, the names in the JSON log, without the metrics of single classes."""
    results = {}
    for name in cfg.DATASETS.TEST:
        metrics = evaluate_dataset(cfg, san, name, log_table=False).get("sem_seg", {})
        results[name] = {metric: metrics[metric] for metric in drop_class_metrics(metrics)}
    return results


def _run_steps(cfg: CfgNode, san: SAN, build: Callable[..., TrainingDataset], *, resume: bool) -> None:
    """Run the SOLVER.MAX_ITER steps of a configuration, from the last checkpoint in its OUTPUT_DIR if resumed.

    Args:
        cfg: the whole configuration.
        san: trained in place.
        build: of the data set, with the argument ``seed``.
        resume: whether to look for a checkpoint.
    """
    trainer = build_trainer(cfg, san)
    start = 0
    if resume and trainer.checkpointer.has_checkpoint():
        trainer.checkpointer.resume_or_load("", resume=True)
        start = trainer.iter + 1
        logger.info("Resumed at iteration %d from %s", start, trainer.last_checkpoint)
    dataset, batch = build(seed=trainer.seed), read_batch_size(cfg)
    count = sum(parameter.numel() for parameter in san.parameters() if parameter.requires_grad)
    logger.info(
        "Training %.2f million parameters of SAN beside %s: %d images, %d steps of %d images in %d part(s)",
        count / 1e6, cfg.MODEL.CLIP.NAME, len(dataset.records),
        cfg.SOLVER.MAX_ITER, batch, cfg.SOLVER.ACCUMULATION_STEPS,
    )  # fmt: skip
    workers = cfg.DATALOADER.NUM_WORKERS
    trainer.batches = load_batches(dataset, seed=trainer.seed, start=start * batch, batch=batch, num_workers=workers)
    try:
        with explain_worker_deaths(TRAINING_IMAGES):  # including deaths noticed between two steps
            trainer.train(start, cfg.SOLVER.MAX_ITER)
    except KeyboardInterrupt as stop:
        done = f"{trainer.iter} of {trainer.max_iter} steps are done"
        raise Interrupted(f"{done}, last checkpoint: {trainer.last_checkpoint}") from stop


def check_architecture(cfg: CfgNode) -> None:
    """Check that the model is one to train.

    Raises:
        InputError: it is CLIPtrase.
    """
    if cfg.MODEL.META_ARCHITECTURE not in ("SAN", "CLIPtraseSAN"):
        got = f"training {cfg.MODEL.META_ARCHITECTURE}, which has nothing to train"
        raise InputError("MODEL.META_ARCHITECTURE", got, f"Add --eval-only, or set {SAN.__name__}.")


def choose_seed(cfg: CfgNode) -> int:
    """Return SEED, or a random number if it is negative, the same in every process."""
    drawn = int(np.random.SeedSequence().generate_state(1)[0])
    seed: int = comm.all_gather(cfg.SEED if cfg.SEED >= 0 else drawn)[0]
    return seed


def build_dataset(cfg: CfgNode) -> TrainingDataset:
    """Build the data set of all images of DATASETS.TRAIN.

    Raises:
        InputError: no data set, data sets with different classes, or images without labels.
    """
    names = cfg.DATASETS.TRAIN
    if not names:
        fix = "Add --train-dataset D.yaml, or set DATASETS.TRAIN in the configuration."
        raise InputError("DATASETS.TRAIN", "no data set", fix)
    with name_arguments({"dataset_name": "DATASETS.TRAIN"}):
        labels = [get_dataset_labels(name) for name in names]  # checks all names before any folder is listed
        records = [record for name in names for record in list_records(name, "stop")]
    for name, of_name in zip(names, labels, strict=True):
        if of_name != labels[0] or get_rendering(name) != get_rendering(names[0]):
            got = f"{name!r} and {names[0]!r} have different classes, label values, bands or stretch"
            raise InputError("DATASETS.TRAIN", got, "Train on one of them.")
    if unlabelled := [record for record in records if "sem_seg_file_name" not in record]:
        got = f"{len(unlabelled)} images without labels, such as {unlabelled[0]['file_name']}"
        raise InputError("DATASETS.TRAIN", got, "Choose a data set with a label file for each image.")
    with name_arguments({"bands": "INPUT.BANDS", "stretch": "INPUT.STRETCH"}):
        rendering = get_rendering(names[0]).over(Rendering(cfg.INPUT.BANDS, cfg.INPUT.STRETCH))
    return TrainingDataset(records, build_augmentation(cfg), *labels[0], cfg.INPUT.MAX_PIXELS, rendering)


def build_augmentation(cfg: CfgNode) -> Augmentation:
    """Build the augmentation from INPUT.

    Raises:
        InputError: an unsupported kind, or a size below 1.
    """
    keys, crop = cfg.INPUT, cfg.INPUT.CROP
    sides = keys.MIN_SIZE_TRAIN
    sides = tuple(sides) if isinstance(sides, list | tuple) else (sides,)
    check_choice("INPUT.MIN_SIZE_TRAIN_SAMPLING", keys.MIN_SIZE_TRAIN_SAMPLING, ("choice", "range"))
    check_choice("INPUT.RANDOM_FLIP", keys.RANDOM_FLIP, ("horizontal", "none"))
    if crop.ENABLED:
        check_choice("INPUT.CROP.TYPE", crop.TYPE, ("absolute",))
    is_range = keys.MIN_SIZE_TRAIN_SAMPLING == "range"
    if not sides or min(sides) < 1 or (is_range and len(sides) != 2):
        fix = "Set the two ends of the range, above 0." if is_range else "Set one or more sizes above 0."
        raise InputError("INPUT.MIN_SIZE_TRAIN", sides, fix)
    if crop.ENABLED and min(crop.SIZE) < 1:
        raise InputError("INPUT.CROP.SIZE", crop.SIZE, "Set a height and a width above 0.")
    return Augmentation(
        short_sides=sides,
        sampling=keys.MIN_SIZE_TRAIN_SAMPLING,
        max_size=keys.MAX_SIZE_TRAIN,
        crop=(int(crop.SIZE[0]), int(crop.SIZE[1])) if crop.ENABLED else None,
        colours=keys.COLOR_AUG_SSD,
        flip=keys.RANDOM_FLIP == "horizontal",
    )


def read_batch_size(cfg: CfgNode) -> int:
    """Return the number of images per step over all processes.

    Raises:
        InputError: a batch that cannot be divided among the processes and parts.
    """
    batch, parts, processes = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.ACCUMULATION_STEPS, comm.get_world_size()
    if batch < 1 or parts < 1 or batch % (processes * parts):
        got = f"{batch} images for {processes} processes with SOLVER.ACCUMULATION_STEPS {parts}"
        raise InputError("SOLVER.IMS_PER_BATCH", got, f"Set a multiple of {processes * max(1, parts)}.")
    return batch


def build_trainer(cfg: CfgNode, san: SAN) -> SANTrainer:
    """Build the trainer with its optimizer, schedule and hooks."""
    optimizer = build_optimizer(cfg, san)
    is_gpu = san.device.type == "cuda"
    half = torch.float16 if is_gpu else torch.bfloat16  # CPUs do not compute in float16
    devices = {} if is_gpu else {"device_ids": None}  # by default Detectron2 names a GPU
    trainer = SANTrainer(
        create_ddp_model(san, broadcast_buffers=False, **devices),
        optimizer,
        cfg.OUTPUT_DIR,
        seed=choose_seed(cfg),
        parts=cfg.SOLVER.ACCUMULATION_STEPS,
        gradient_limit=read_gradient_limit(cfg),
        precision=half if cfg.SOLVER.AMP.ENABLED else torch.float32,
    )
    trainer.register_hooks(build_hooks(cfg, trainer, build_schedule(cfg, optimizer)))
    return trainer


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Build SOLVER.OPTIMIZER, with the learning rate and weight decay of each part as in the published SAN.

    Raises:
        InputError: an unknown optimizer.
    """
    solver = cfg.SOLVER
    check_choice("SOLVER.OPTIMIZER", solver.OPTIMIZER, ("ADAMW", "SGD"))
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for path, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        owner, _, name = path.rpartition(".")
        module = model.get_submodule(owner)
        rate = solver.BASE_LR
        if "side_adapter_network" in owner:
            rate *= solver.BACKBONE_MULTIPLIER
        if "clip" in owner:
            rate *= solver.CLIP_MULTIPLIER
        if isinstance(module, _NORMS):
            decay = solver.WEIGHT_DECAY_NORM
        elif isinstance(module, nn.Embedding) or any(part in name for part in _EMBEDDINGS):
            decay = solver.WEIGHT_DECAY_EMBED
        else:
            decay = solver.WEIGHT_DECAY
        groups.setdefault((rate, decay), []).append(parameter)
    options = [{"params": group, "lr": rate, "weight_decay": decay} for (rate, decay), group in groups.items()]
    if solver.OPTIMIZER == "SGD":
        return torch.optim.SGD(options, solver.BASE_LR, momentum=solver.MOMENTUM)
    return torch.optim.AdamW(options, solver.BASE_LR)


def build_schedule(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRMultiplier:
    """Build "WarmupPolyLR", (1 - t)^power at share t of the training, or a schedule of Detectron2."""
    if cfg.SOLVER.LR_SCHEDULER_NAME != "WarmupPolyLR":
        return build_lr_scheduler(cfg, optimizer)
    schedule = PolynomialDecayParamScheduler(1.0, cfg.SOLVER.POLY_LR_POWER)
    warmup = min(cfg.SOLVER.WARMUP_ITERS / cfg.SOLVER.MAX_ITER, 1.0)
    if warmup:
        schedule = WarmupParamScheduler(schedule, cfg.SOLVER.WARMUP_FACTOR, warmup, cfg.SOLVER.WARMUP_METHOD)
    return LRMultiplier(optimizer, schedule, max_iter=cfg.SOLVER.MAX_ITER)


def read_gradient_limit(cfg: CfgNode) -> float | None:
    """Return the largest total norm of the gradients of a step; None for no limit.

    Raises:
        InputError: an unsupported kind of clipping, or a limit that is not positive.
    """
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not clip.ENABLED:
        return None
    if clip.CLIP_TYPE != FULL_MODEL or clip.NORM_TYPE != 2.0:
        got = f"{clip.CLIP_TYPE!r} with norm {clip.NORM_TYPE:g}"
        fix = "Change it, or set ENABLED False."
        raise InputError("SOLVER.CLIP_GRADIENTS", got, fix, allowed=f"{FULL_MODEL!r} with norm 2")
    if clip.CLIP_VALUE <= 0:
        raise InputError("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", clip.CLIP_VALUE, "Set a number above 0.")
    return clip.CLIP_VALUE


def build_hooks(cfg: CfgNode, trainer: SANTrainer, schedule: LRMultiplier) -> list[HookBase]:
    """Return the hooks: timing, schedule, evaluation, checkpoints and logs."""
    common = [
        hooks.IterationTimer(),
        hooks.LRScheduler(trainer.optimizer, schedule),
        hooks.EvalHook(
            cfg.TEST.EVAL_PERIOD if cfg.DATASETS.TEST else 0,
            partial(evaluate_all, cfg, trainer.san),
            eval_after_train=False,
        ),
    ]
    if not comm.is_main_process():
        return common
    limit = cfg.SOLVER.MAX_TO_KEEP or None
    checkpoints = hooks.PeriodicCheckpointer(trainer.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD, max_to_keep=limit)
    return [*common, checkpoints, hooks.PeriodicWriter(_build_writers(cfg), _LOG_PERIOD)]


def _build_writers(cfg: CfgNode) -> list[EventWriter]:
    """Return writers for the log, OUTPUT_DIR/metrics.json, and TensorBoard if it is installed."""
    writers = [CommonMetricPrinter(cfg.SOLVER.MAX_ITER), JSONWriter(str(Path(cfg.OUTPUT_DIR) / "metrics.json"))]
    try:
        writers.append(TensorboardXWriter(cfg.OUTPUT_DIR))
    except ImportError:
        logger.info("No TensorBoard log: TensorBoard is not installed (pip install 'cliptrase_d2[train]').")
    return writers
