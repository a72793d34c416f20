"""Training from a configuration: data, model, optimizer, hooks, and where to go on."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cliptrase_d2.d2 import (
    CfgNode,
    CommonMetricPrinter,
    EventWriter,
    HookBase,
    JSONWriter,
    TensorboardXWriter,
    build_model,
    comm,
    create_ddp_model,
    hooks,
)
from cliptrase_d2.data.loader import list_records
from cliptrase_d2.data.register import dataset_labels
from cliptrase_d2.evaluation.evaluate import evaluate_dataset
from cliptrase_d2.san.augment import Augmentation
from cliptrase_d2.san.checkpoints import AtomicCheckpointer
from cliptrase_d2.san.model import SAN
from cliptrase_d2.san.optimizer import build_optimizer, build_schedule, gradient_limit
from cliptrase_d2.san.trainer import TRAINING_IMAGES, SANTrainer
from cliptrase_d2.san.training_data import TrainingLoader, TrainingMapper, TrainingOrder
from cliptrase_d2.san.warm_start import start_queries
from cliptrase_d2.segmenter.build import load_weights
from cliptrase_d2.utils.atomic_files import remove_unfinished
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.interruption import Interrupted
from cliptrase_d2.utils.workers import explain_worker_deaths

logger = logging.getLogger(__name__)
_LOG_PERIOD = 20  # iterations


def train(cfg: CfgNode, *, resume: bool) -> SAN:
    """Train SAN on DATASETS.TRAIN, evaluating on DATASETS.TEST now and then.

    Args:
        cfg: read for everything.
        resume: go on from the last checkpoint in OUTPUT_DIR; from the start where there is none.
    Returns:
        The trained model.
    Raises:
        InputError: a model, data set or setting that cannot be used.
        NonFiniteLossError: a loss became infinite or NaN.
        WriteError: a disk without room; the checkpoints before are as they were.
        Interrupted: at Ctrl-C, saying how far it has come.
    """
    if SAN.__name__ != cfg.MODEL.META_ARCHITECTURE:
        got = f"training {cfg.MODEL.META_ARCHITECTURE}, which has nothing to train"
        raise InputError("MODEL.META_ARCHITECTURE", got, "Add --eval-only, or choose it.", allowed=SAN.__name__)
    loader_parts = _training_data(cfg)
    san = build_model(cfg)
    assert isinstance(san, SAN)  # the registry has it under its own name
    trainer, checkpointer, schedule = _trainer(cfg, san)
    if comm.is_main_process():
        remove_unfinished(Path(cfg.OUTPUT_DIR))
    comm.synchronize()
    trainer.register_hooks(_hooks(cfg, trainer, checkpointer, schedule))
    if resume and checkpointer.has_checkpoint():
        checkpointer.resume_or_load("", resume=True)
        trainer.last_checkpoint = checkpointer.get_checkpoint_file()
        start = trainer.iter + 1
        logger.info("Resumed at iteration %d from %s", start, trainer.last_checkpoint)
    else:
        start_queries(cfg, san)
        load_weights(cfg, san)
        start = 0
    _say_what_is_trained(cfg, san, len(loader_parts[0]))
    trainer.batches = iter(_loader(cfg, *loader_parts, seed=trainer.seed, start=start))
    try:
        with explain_worker_deaths(TRAINING_IMAGES):  # also those noticed between two steps
            trainer.train(start, cfg.SOLVER.MAX_ITER)
    except KeyboardInterrupt as stop:
        saved = trainer.last_checkpoint or "none yet"
        raise Interrupted(f"{trainer.iter} of {trainer.max_iter} steps are done, last checkpoint: {saved}") from stop
    return san


def _say_what_is_trained(cfg: CfgNode, san: SAN, images: int) -> None:
    counts = [parameter.numel() for parameter in san.parameters() if parameter.requires_grad]
    logger.info(
        "Training %.2f million parameters of SAN beside %s: %d images of %s, %d steps of %d images in %d part(s)",
        sum(counts) / 1e6, cfg.MODEL.CLIP.NAME, images, ", ".join(cfg.DATASETS.TRAIN),
        cfg.SOLVER.MAX_ITER, cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.ACCUMULATION_STEPS,
    )  # fmt: skip


def _training_data(cfg: CfgNode) -> tuple[list[Any], TrainingMapper]:
    """All records of DATASETS.TRAIN, and what reads them."""
    names = cfg.DATASETS.TRAIN
    if not names:
        fix = "Give --train-dataset D.yaml, or set DATASETS.TRAIN in the configuration."
        raise InputError("DATASETS.TRAIN", "no data set", fix, allowed="names of registered data sets with labels")
    records = [record for name in names for record in list_records(name, "stop")]
    vocabulary, rule = dataset_labels(names[0])
    for name in names:
        if dataset_labels(name) != (vocabulary, rule):
            got = f"{name!r} and {names[0]!r}, whose classes or labels differ"
            raise InputError("DATASETS.TRAIN", got, "Name one of them.", allowed="data sets of the same classes")
    unlabelled = [record for record in records if "sem_seg_file_name" not in record]
    if unlabelled:
        got = f"{len(unlabelled)} images without labels, such as {unlabelled[0]['file_name']}"
        raise InputError("DATASETS.TRAIN", got, "Name a data set with labels.", allowed="a label file for every image")
    return records, TrainingMapper(_augmentation(cfg), vocabulary, rule, cfg.INPUT.MAX_PIXELS)


def _augmentation(cfg: CfgNode) -> Augmentation:
    crop, flip = cfg.INPUT.CROP, cfg.INPUT.RANDOM_FLIP
    if crop.ENABLED and crop.TYPE != "absolute":
        raise InputError(
            "INPUT.CROP.TYPE", repr(crop.TYPE), "Change it, and give SIZE in pixels.", allowed="'absolute'"
        )
    if flip not in ("horizontal", "none"):
        raise InputError("INPUT.RANDOM_FLIP", repr(flip), "Choose one of these.", allowed="'horizontal' or 'none'")
    sides = cfg.INPUT.MIN_SIZE_TRAIN
    return Augmentation(
        short_sides=tuple(sides) if isinstance(sides, list | tuple) else (sides,),
        sampling=cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING,
        max_size=cfg.INPUT.MAX_SIZE_TRAIN,
        crop=(int(crop.SIZE[0]), int(crop.SIZE[1])) if crop.ENABLED else None,
        colours=cfg.INPUT.COLOR_AUG_SSD,
        flip=flip == "horizontal",
    )


def _loader(cfg: CfgNode, records: list[Any], mapper: TrainingMapper, *, seed: int, start: int) -> TrainingLoader:
    batch, processes = cfg.SOLVER.IMS_PER_BATCH, comm.get_world_size()
    parts = cfg.SOLVER.ACCUMULATION_STEPS
    if batch < 1 or parts < 1 or batch % (processes * parts):
        got = f"{batch} images for {processes} processes with SOLVER.ACCUMULATION_STEPS {parts}"
        raise InputError(
            "SOLVER.IMS_PER_BATCH", got, "Change one of them.", allowed=f"a multiple of {processes * max(1, parts)}"
        )
    order = TrainingOrder(
        len(records), seed=seed, start=start * batch, batch=batch, rank=comm.get_rank(), processes=processes
    )
    return TrainingLoader(records, mapper, order, num_workers=cfg.DATALOADER.NUM_WORKERS)


def _trainer(cfg: CfgNode, san: SAN) -> tuple[SANTrainer, AtomicCheckpointer, Any]:
    optimizer = build_optimizer(cfg, san)
    on_gpu = san.device.type == "cuda"
    half = torch.float16 if on_gpu else torch.bfloat16  # which CPUs compute in
    places = {} if on_gpu else {"device_ids": None}  # Detectron2 would name a GPU
    trainer = SANTrainer(
        create_ddp_model(san, broadcast_buffers=False, **places),
        optimizer,
        seed=_seed(cfg),
        parts=cfg.SOLVER.ACCUMULATION_STEPS,
        gradient_limit=gradient_limit(cfg),
        precision=half if cfg.SOLVER.AMP.ENABLED else torch.float32,
    )
    return trainer, AtomicCheckpointer(san, cfg.OUTPUT_DIR, trainer=trainer), build_schedule(cfg, optimizer)


def _seed(cfg: CfgNode) -> int:
    """SEED, or where that leaves it open a random one, the same in every process; checkpoints keep it."""
    drawn = int(np.random.SeedSequence().generate_state(1)[0])
    return comm.all_gather(cfg.SEED if cfg.SEED >= 0 else drawn)[0]


def _hooks(cfg: CfgNode, trainer: SANTrainer, checkpointer: AtomicCheckpointer, schedule: Any) -> list[HookBase | None]:
    period = cfg.TEST.EVAL_PERIOD if cfg.DATASETS.TEST else 0
    is_main = comm.is_main_process()
    return [
        hooks.IterationTimer(),
        hooks.LRScheduler(trainer.optimizer, schedule),
        hooks.EvalHook(period, lambda: _evaluate(cfg, trainer.san), eval_after_train=False),
        _Checkpoints(checkpointer, cfg) if is_main else None,
        hooks.PeriodicWriter(_writers(cfg), _LOG_PERIOD) if is_main else None,
    ]


class _Checkpoints(hooks.PeriodicCheckpointer):
    """Tells the trainer which checkpoint is the newest."""

    def __init__(self, checkpointer: AtomicCheckpointer, cfg: CfgNode):
        kept = cfg.SOLVER.MAX_TO_KEEP or None
        super().__init__(checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD, max_to_keep=kept)

    def after_step(self) -> None:
        super().after_step()
        self.trainer.last_checkpoint = self.checkpointer.get_checkpoint_file()


def _writers(cfg: CfgNode) -> list[EventWriter]:
    """The log, OUTPUT_DIR/metrics.json, and TensorBoard where it is installed."""
    writers = [CommonMetricPrinter(cfg.SOLVER.MAX_ITER), JSONWriter(str(Path(cfg.OUTPUT_DIR) / "metrics.json"))]
    try:
        writers.append(TensorboardXWriter(cfg.OUTPUT_DIR))
    except ImportError:
        logger.info("TensorBoard is not installed (pip install 'cliptrase_d2[train]'): its log is not written.")
    return writers


def _evaluate(cfg: CfgNode, model: SAN) -> dict[str, dict[str, float]]:
    """{data set: {metric: percent}} of all of DATASETS.TEST; the names are those of the JSON log."""
    return {name: evaluate_dataset(cfg, model, name, log_table=False).get("sem_seg", {}) for name in cfg.DATASETS.TEST}
