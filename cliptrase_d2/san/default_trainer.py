"""SAN in Detectron2's DefaultTrainer, to be subclassed. It needs Detectron2; `train_net.py` does not."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cliptrase_d2.d2 import CfgNode, DatasetEvaluator, HookBase, LRMultiplier
from cliptrase_d2.d2.default_trainer import DefaultTrainer, build_detection_test_loader, maybe_add_gradient_clipping
from cliptrase_d2.data.mapper import EvaluationMapper
from cliptrase_d2.evaluation.augmentation import AugmentedModel, check_augmentation
from cliptrase_d2.evaluation.evaluate import require_datasets
from cliptrase_d2.evaluation.evaluator import SegmentationEvaluator
from cliptrase_d2.san.checkpoints import AtomicCheckpointer
from cliptrase_d2.san.model import SAN
from cliptrase_d2.san.training import (
    FULL_MODEL,
    build_dataset,
    build_optimizer,
    build_schedule,
    check_architecture,
    choose_seed,
    read_batch_size,
    read_gradient_limit,
)
from cliptrase_d2.san.training_data import load_batches
from cliptrase_d2.san.warm_start import start_queries
from cliptrase_d2.utils.errors import InputError


class Trainer(DefaultTrainer):
    """Detectron2's trainer with the optimizer, schedule, data, evaluator and checkpoints of `train_net.py`.

    Its losses are those of `SANTrainer`. A resumed training reads the images from the first one again and has other
    random points; `train_net.py` resumes exactly.

    Raises:
        InputError: an unusable model, data set or setting.
    """

    def resume_or_load(self, resume: bool = True) -> None:
        """Load the last checkpoint, or else apply the warm start and load MODEL.WEIGHTS."""
        if not (resume and self.checkpointer.has_checkpoint()):
            san = self.checkpointer.model  # without the distributed wrapper
            assert isinstance(san, SAN)
            start_queries(self.cfg, san)
        super().resume_or_load(resume)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a saved state.

        Raises:
            InputError: the state is that of `train_net.py`.
        """
        if "_trainer" not in state_dict:
            fix = "Name it in MODEL.WEIGHTS, with resume=False and a new OUTPUT_DIR, or resume with train_net.py."
            got = "a checkpoint of another trainer, which cannot be resumed"
            raise InputError(self.checkpointer.get_checkpoint_file(), got, fix)
        super().load_state_dict(state_dict)

    def build_hooks(self) -> list[HookBase | None]:
        """Return Detectron2's hooks, with checkpoints that are written atomically and read as data only."""
        self.checkpointer = AtomicCheckpointer(self.model, self.cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        hooks: list[HookBase | None] = super().build_hooks()
        return hooks

    @classmethod
    def build_model(cls, cfg: CfgNode) -> SAN:
        """Build SAN on its device, whatever package has this name in the registry."""
        check_architecture(cfg)
        if cfg.DATASETS.TEST:
            require_datasets(cfg.DATASETS.TEST)
        return SAN(cfg).to(torch.device(cfg.MODEL.DEVICE))  # type: ignore[call-arg, arg-type]

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """Build the optimizer. SOLVER.CLIP_GRADIENTS.CLIP_TYPE is "full_model" or one of Detectron2's kinds."""
        optimizer: torch.optim.Optimizer = build_optimizer(cfg, model)
        if cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE != FULL_MODEL:
            clipped: torch.optim.Optimizer = maybe_add_gradient_clipping(cfg, optimizer)
            return clipped
        limit = read_gradient_limit(cfg)
        if limit is not None:
            _clip_before_steps(optimizer, limit)
        return optimizer

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRMultiplier:
        """Build "WarmupPolyLR" or a schedule of Detectron2."""
        return build_schedule(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterable[list[dict[str, Any]]]:
        """Return the endless, augmented batches of DATASETS.TRAIN."""
        if cfg.SOLVER.ACCUMULATION_STEPS != 1:
            fix = "Set it to 1, or train with train_net.py."
            raise InputError("SOLVER.ACCUMULATION_STEPS", f"{cfg.SOLVER.ACCUMULATION_STEPS} in DefaultTrainer", fix)
        if cfg.SOLVER.UNLABELLED_ITER:
            got = f"{cfg.SOLVER.UNLABELLED_ITER} in DefaultTrainer"
            raise InputError("SOLVER.UNLABELLED_ITER", got, "Set it to 0, or train with train_net.py.")
        batch, workers = read_batch_size(cfg), cfg.DATALOADER.NUM_WORKERS
        return load_batches(build_dataset(cfg), seed=choose_seed(cfg), start=0, batch=batch, num_workers=workers)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Iterable[list[dict[str, Any]]]:
        """Return Detectron2's loader with this package's mapper."""
        # Not by the registry, in which "SAN" may be the published package's.
        mapper = EvaluationMapper(cfg, dataset_name, patch_size=SAN.patch_multiple, resampling=SAN.resampling)
        loader: Iterable[list[dict[str, Any]]] = build_detection_test_loader(cfg, dataset_name, mapper=mapper)
        return loader

    @classmethod
    def test(
        cls, cfg: CfgNode, model: nn.Module, evaluators: Sequence[DatasetEvaluator] | None = None
    ) -> dict[str, Any]:
        """Evaluate on DATASETS.TEST as Detectron2 does, over several views of each image if TEST.AUG is enabled."""
        check_augmentation(cfg)
        if cfg.TEST.AUG.ENABLED:
            san = model.module if isinstance(model, DistributedDataParallel) else model
            assert isinstance(san, SAN)
            model = AugmentedModel(san, flip=cfg.TEST.AUG.FLIP)
        results: dict[str, Any] = super().test(cfg, model, evaluators)
        return results

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """Return this package's evaluator, whose results also have Detectron2's names."""
        return SegmentationEvaluator(dataset_name, cfg.OUTPUT_DIR)


def _clip_before_steps(optimizer: torch.optim.Optimizer, limit: float) -> None:
    """Limit the total norm of all gradients in each step; a gradient scaler has unscaled them by then."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def clip(*_: object) -> None:
        torch.nn.utils.clip_grad_norm_(parameters, limit)

    optimizer.register_step_pre_hook(clip)
