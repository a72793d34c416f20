"""A training of the tiny SAN on drawn scenes that takes seconds."""

from __future__ import annotations

from pathlib import Path

import torch

from cliptrase_d2.d2 import CfgNode
from cliptrase_d2.data.register import register_dataset
from tests.drawn_scenes import CLASSES, write_scenes
from tests.san.tiny_san import tiny_san_config

OPTIONS = (
    *("INPUT.MIN_SIZE_TRAIN", "(64,)"),
    *("INPUT.MAX_SIZE_TRAIN", "128"),
    *("INPUT.CROP.ENABLED", "True"),
    *("INPUT.CROP.TYPE", "absolute"),
    *("INPUT.CROP.SIZE", "[64, 64]"),
    *("INPUT.COLOR_AUG_SSD", "True"),
    *("SOLVER.IMS_PER_BATCH", "4"),
    *("SOLVER.MAX_ITER", "4"),
    *("SOLVER.CHECKPOINT_PERIOD", "2"),
    *("SOLVER.LR_SCHEDULER_NAME", "WarmupPolyLR"),
    *("SOLVER.WARMUP_ITERS", "0"),
    *("MODEL.CLIPTRASE.VOCABULARY", "[]"),
    *("MODEL.CLIPTRASE.EPS", "1.5"),
    *("MODEL.CLIPTRASE.MIN_SAMPLES", "2"),
    *("SEED", "0"),
)


def training_config(folder: Path, *options: str) -> CfgNode:
    """Its configuration, `options` last; five scenes to train on and to evaluate on."""
    name = f"training_{folder.name}"
    if not (folder / "scenes").is_dir():
        write_scenes(folder / "scenes", 5)
    register_dataset(name, folder / "scenes" / "images", CLASSES, folder / "scenes" / "annotations")
    data = ("DATASETS.TRAIN", f"('{name}',)", "DATASETS.TEST", f"('{name}',)")
    return tiny_san_config(folder, *OPTIONS, *data, *options)


def weights(path: Path) -> dict[str, torch.Tensor]:
    """The model's tensors in a checkpoint."""
    return torch.load(path, weights_only=True)["model"]
